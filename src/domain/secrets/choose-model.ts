import { AppError } from '../../lib/errors.ts'
import type { KeyOwner, ProviderKeys } from './provider-keys.ts'

/**
 * The model of that name (null: the default one), or of that name and provider, for an agent.
 * @throws AppError 'model_unavailable' when there is no key that the agent may use, or another code when there is no such model.
 */
export type ResolveModel = (
  name: string | null,
  owner: KeyOwner,
  provider?: string,
) => Promise<{ provider: string; modelId: string }>

export interface ModelChooserDeps<Choice> {
  /**
   * The model of that name, or of that name and provider, with the environment's keys, and with those for the providers
   * in `own`.
   * @throws AppError 'model_unavailable' when there is no key for it, or another code when there is no such model.
   */
  choose(name: string | null, more: { provider?: string | undefined; own?: ReadonlySet<string> }): Choice
  providerKeys: Pick<ProviderKeys, 'providersOf'>
}

/**
 * Turns the name of a model into the model, for one agent: a provider can be used with the environment's key, or with one
 * that the agent or its organization has. Where the former is there nothing needs to be looked up.
 */
export function createModelChooser<Choice>({ choose, providerKeys }: ModelChooserDeps<Choice>) {
  return async (name: string | null, owner: KeyOwner, provider?: string): Promise<Choice> => {
    try {
      return choose(name, { provider })
    } catch (error) {
      if (!(error instanceof AppError) || error.code !== 'model_unavailable') throw error
      return choose(name, { provider, own: await providerKeys.providersOf(owner) })
    }
  }
}
