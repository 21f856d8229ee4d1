import { describe, expect, test } from 'vitest'
import { createPrices } from './prices.ts'

const usage = (inputTokens: number, outputTokens: number, cachedInputTokens = 0) => ({
  inputTokens,
  outputTokens,
  cachedInputTokens,
})

describe('what a model call cost', () => {
  const costOf = createPrices()

  test('is in millionths of a dollar, with cached input at its own price', () => {
    expect(costOf('anthropic/claude-sonnet-4-5', usage(1_000_000, 0))).toBe(3_000_000)
    expect(costOf('anthropic/claude-sonnet-4-5', usage(1_000, 100, 600))).toBe(400 * 3 + 600 * 0.3 + 100 * 15)
    // A provider that counts more as cached than as input is not paid for it.
    expect(costOf('anthropic/claude-sonnet-4-5', usage(10, 0, 50))).toBe(3)
  })

  test('is that of the model without its release', () => {
    for (const name of ['openai/gpt-5-mini', 'openai/gpt-5-mini-2025-08-07', 'openai/gpt-5-mini-latest']) {
      expect(costOf(name, usage(1_000_000, 0)), name).toBe(250_000)
    }
    expect(costOf('anthropic/claude-haiku-4-5-20251001', usage(0, 1_000_000))).toBe(5_000_000)
  })

  test('is dearer for a long prompt where the vendor says so', () => {
    expect(costOf('google/gemini-2.5-pro', usage(200_000, 0))).toBe(250_000)
    expect(costOf('google/gemini-2.5-pro', usage(200_001, 0))).toBe(Math.round(200_001 * 2.5))
  })

  test('is nothing for the demo model, and unknown where there is no price', () => {
    expect(costOf('demo/demo', usage(1_000_000, 1_000_000))).toBe(0)
    expect(costOf('openai/gpt-unheard-of', usage(1, 1))).toBeNull()
    expect(costOf('openai-compatible/llama', usage(1, 1))).toBeNull()
  })
})

describe('a file of prices', () => {
  test('comes before the built-in ones, for one model or all of a provider', () => {
    const costOf = createPrices(
      JSON.stringify({
        'openai/gpt-5-mini': { input: 1, output: 2 },
        'openai-compatible/*': { input: 0, output: 0 },
        'openai-compatible/large': { input: 4, output: 8, cachedInput: 1 },
      }),
    )
    expect(costOf('openai/gpt-5-mini', usage(1_000, 1_000, 500))).toBe(3_000)
    expect(costOf('openai-compatible/any', usage(1_000, 1_000))).toBe(0)
    expect(costOf('openai-compatible/large', usage(1_000, 0, 1_000))).toBe(1_000)
    expect(costOf('openai/gpt-5', usage(1_000_000, 0))).toBe(1_250_000)
  })

  test.for([
    ['no JSON', '{'],
    ['a model without its provider', '{"gpt-5": {"input": 1, "output": 1}}'],
    ['a price below nothing', '{"openai/gpt-5": {"input": -1, "output": 1}}'],
    ['a price that is missing', '{"openai/gpt-5": {"input": 1}}'],
    ['a word that nobody knows', '{"openai/gpt-5": {"input": 1, "output": 1, "cached": 1}}'],
  ])('with %s is refused with a sentence', ([, text]) => {
    expect(() => createPrices(text)).toThrow(/^The file of prices is not /)
  })
})
