import { describe, expect, test } from 'vitest'
import { AppError } from '../../lib/errors.ts'
import { modelProviders } from './index.ts'
import { resolveModel, statusOf } from './resolve-model.ts'

const settings = {
  anthropic: { baseUrl: 'http://models.test', apiKey: 'key' },
  'openai-compatible': { baseUrl: 'http://models.test' },
  google: { baseUrl: 'http://models.test' },
}
const models = modelProviders.map((provider) => statusOf(provider, settings[provider.id as keyof typeof settings]))

function resolve(name: string | null, provider?: string | null, defaultModel = 'anthropic/claude-a') {
  const { provider: chosen, modelId } = resolveModel(name, { defaultModel, provider, models })
  return `${chosen}/${modelId}`
}

test.each([
  [null, undefined, 'anthropic/claude-a'],
  ['', '', 'anthropic/claude-a'],
  ['demo/demo', undefined, 'demo/demo'],
  ['anthropic/claude-b', undefined, 'anthropic/claude-b'],
  ['openai-compatible/meta/llama-3:8b', undefined, 'openai-compatible/meta/llama-3:8b'],
  ['claude-b', undefined, 'anthropic/claude-b'],
  ['demo', undefined, 'demo/demo'],
  ['anthropic', undefined, 'anthropic/claude-sonnet-4-5'],
  ['claude-b', 'anthropic', 'anthropic/claude-b'],
  ['anthropic/claude-b', 'anthropic', 'anthropic/claude-b'],
  ['meta/llama-3', 'openai-compatible', 'openai-compatible/meta/llama-3'],
  [null, 'anthropic', 'anthropic/claude-a'],
  [null, 'demo', 'demo/demo'],
])('the model %s of provider %s is %s', (name, provider, expected) => {
  expect(resolve(name, provider)).toBe(expected)
})

describe('what cannot be had', () => {
  test.each([
    ['nobody/model', undefined, 'invalid_request', 'Known: anthropic, openai'],
    ['model', 'nobody', 'invalid_request', '"nobody"'],
    ['openai-compatible', undefined, 'invalid_request', 'openai-compatible/model-name'],
    ['openai-compatible/', undefined, 'invalid_request', 'openai-compatible/model-name'],
    [null, 'openai-compatible', 'invalid_request', 'openai-compatible/model-name'],
    ['openai/gpt-5', undefined, 'model_unavailable', 'OPENAI_API_KEY'],
    ['gemini', 'google', 'model_unavailable', 'GOOGLE_GENERATIVE_AI_API_KEY'],
  ])('%s of provider %s is %s', (name, provider, code, words) => {
    const error = catchError(() => resolve(name, provider))
    expect(error).toBeInstanceOf(AppError)
    expect(error).toMatchObject({ code, message: expect.stringContaining(words) })
  })
})

function catchError(run: () => unknown): unknown {
  try {
    return run()
  } catch (error) {
    return error
  }
}
