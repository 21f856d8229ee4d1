import { AppError } from '../../lib/errors.ts'
import type { ModelProvider, ModelStatus, ProviderId, ProviderSettings } from './contract.ts'

export interface ModelChoice {
  provider: ProviderId
  modelId: string
}

/**
 * Turns what a caller or an agent's settings say into one model: `provider/model`, or a bare model id together with
 * `defaults.provider`, or without it of the default model's provider; a provider's name alone means its default
 * model, and null the default. With `defaults.provider` the rest of the name may contain slashes.
 *
 * @throws AppError `invalid_request` for an unknown provider or a missing model, `model_unavailable` for a provider
 *   that is not configured.
 */
export function resolveModel(
  name: string | null,
  defaults: { defaultModel: string; provider?: string | null | undefined; models: readonly ModelStatus[] },
): ModelChoice {
  const { models } = defaults
  const fallback = splitName(defaults.defaultModel)
  const { provider, modelId } = chooseNames(name || null, { provider: defaults.provider || null, fallback, models })
  const status = models.find((model) => model.provider === provider)
  if (status === undefined) throw unknownProvider(provider, models)
  if (!status.available) throw new AppError('model_unavailable', unavailableMessage(status))
  const chosen = modelId || status.defaultModel
  if (!chosen) throw new AppError('invalid_request', `Name a model of ${provider}, as in ${provider}/model-name.`)
  return { provider: status.provider, modelId: chosen }
}

/** Whether a provider has what it needs, and if not, which variable would give it. */
export function statusOf({ id, ...provider }: ModelProvider, settings: ProviderSettings | undefined): ModelStatus {
  const missingVariable = missingOf(provider, settings ?? {})
  return { provider: id, available: missingVariable === null, defaultModel: provider.defaultModel, missingVariable }
}

/** Says what switches a provider on. Safe to show. */
export function unavailableMessage({ provider, missingVariable }: ModelStatus): string {
  const own = missingVariable?.endsWith('_KEY') ? ', or give the agent or its organization a key of its own' : ''
  return `The model provider ${provider} is not configured. Set ${missingVariable} and restart the gateway${own}.`
}

function missingOf(
  { variables, keyRequired }: Pick<ModelProvider, 'variables' | 'keyRequired'>,
  { apiKey, baseUrl }: ProviderSettings,
): string | null {
  if (variables === null) return null
  if (keyRequired && !apiKey) return variables.apiKey
  return baseUrl ? null : variables.baseUrl
}

interface Names {
  provider: string
  modelId: string | null
}

function chooseNames(
  name: string | null,
  { provider, fallback, models }: { provider: string | null; fallback: Names; models: readonly ModelStatus[] },
): Names {
  if (provider !== null) return { provider, modelId: bareName(name, provider, fallback) }
  if (name === null) return fallback
  if (name.includes('/')) return splitName(name)
  if (models.some((model) => model.provider === name)) return { provider: name, modelId: null }
  return { provider: fallback.provider, modelId: name }
}

function bareName(name: string | null, provider: string, fallback: Names): string | null {
  if (name === null) return provider === fallback.provider ? fallback.modelId : null
  return name.startsWith(`${provider}/`) ? name.slice(provider.length + 1) : name
}

function splitName(name: string): Names {
  const slash = name.indexOf('/')
  if (slash < 0) return { provider: name, modelId: null }
  return { provider: name.slice(0, slash), modelId: name.slice(slash + 1) || null }
}

function unknownProvider(provider: string, models: readonly ModelStatus[]): AppError {
  const known = models.map((model) => model.provider).join(', ')
  return new AppError(
    'invalid_request',
    `Unknown model provider ${JSON.stringify(provider.slice(0, 40))}. Known: ${known}.`,
  )
}
