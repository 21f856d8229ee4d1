import type { LanguageModel } from 'ai'

/**
 * What stands where a key belongs. The gateway puts the real one in; the worker never sees it.
 */
const PLACEHOLDER_KEY = 'lobu'

export const PROVIDERS = ['anthropic', 'openai', 'google', 'openai-compatible', 'demo'] as const
export type ProviderId = (typeof PROVIDERS)[number]
type ModelMaker = (modelId: string) => LanguageModel

/** Thrown for a provider that this build has no package for. */
export class UnknownProvider extends Error {
  constructor(provider: string) {
    super(`there is no provider ${provider}`)
    this.name = 'UnknownProvider'
  }
}

/**
 * The maker of a provider's models, all of whose requests go through `fetch` to the gateway's model proxy.
 * A provider's package is loaded when it is first asked for: each costs memory and start-up time.
 *
 * @throws UnknownProvider
 */
export async function loadProvider(provider: string, fetch: typeof globalThis.fetch): Promise<ModelMaker> {
  const settings = { baseURL: `http://gateway/model/${provider}`, apiKey: PLACEHOLDER_KEY, fetch }
  switch (provider as ProviderId) {
    case 'anthropic':
      return (await import('@ai-sdk/anthropic')).createAnthropic(settings)
    case 'openai':
      return (await import('@ai-sdk/openai')).createOpenAI(settings)
    case 'google':
      return (await import('@ai-sdk/google')).createGoogle(settings)
    case 'openai-compatible':
    case 'demo': {
      const { createOpenAICompatible } = await import('@ai-sdk/openai-compatible')
      return createOpenAICompatible({ ...settings, name: provider, includeUsage: true })
    }
    default:
      throw new UnknownProvider(provider)
  }
}

/** Providers by id, each loaded once. */
export function createModels(fetch: typeof globalThis.fetch) {
  const makers = new Map<ProviderId, ModelMaker>()
  return {
    /** @throws UnknownProvider */
    async load(provider: string, modelId: string): Promise<LanguageModel> {
      const known = makers.get(provider as ProviderId)
      const maker = known ?? (await loadProvider(provider, fetch))
      makers.set(provider as ProviderId, maker)
      return maker(modelId)
    },
  }
}
