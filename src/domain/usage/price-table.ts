/**
 * What models cost, in US dollars per million tokens, which is the same figure as millionths of a dollar per token.
 * For requests of ordinary speed over the vendors' own APIs; batch, priority and regional rates are not here.
 *
 * Read on 2026-11-26 from what was published of the vendors' pages:
 * https://platform.claude.com/docs/en/about-claude/pricing, https://openai.com/api/pricing,
 * https://ai.google.dev/gemini-api/docs/pricing
 *
 * `longPrompt` holds from so many input tokens of one request on, for all tokens of that request.
 */
export interface Price {
  input: number
  cachedInput: number
  output: number
  longPrompt?: { aboveTokens: number; input: number; cachedInput: number; output: number }
}

const price = (input: number, cachedInput: number, output: number): Price => ({ input, cachedInput, output })

/** By `provider/model`. An id with a date behind it (`-20250929`, `-2025-08-07`) or `-latest` has the price of the id without. */
export const PRICE_TABLE: Readonly<Record<string, Price>> = {
  'anthropic/claude-opus-5-5': price(4, 0.2, 20),
  'anthropic/claude-opus-5': price(5, 0.5, 25),
  'anthropic/claude-opus-4-8': price(5, 0.5, 25),
  'anthropic/claude-opus-4-7': price(5, 0.5, 25),
  'anthropic/claude-opus-4-6': price(5, 0.5, 25),
  'anthropic/claude-opus-4-5': price(5, 0.5, 25),
  'anthropic/claude-opus-4-1': price(15, 1.5, 75),
  'anthropic/claude-sonnet-5-5': price(2, 0.1, 10),
  'anthropic/claude-sonnet-5': price(2, 0.2, 10),
  'anthropic/claude-sonnet-4-6': price(3, 0.3, 15),
  'anthropic/claude-sonnet-4-5': price(3, 0.3, 15),
  'anthropic/claude-haiku-5-5': {
    ...price(0.1, 0.01, 0.5),
    longPrompt: { aboveTokens: 100_000, ...price(0.5, 0.05, 2.5) },
  },
  'anthropic/claude-haiku-4-5': price(1, 0.1, 5),

  'openai/gpt-5.5': price(5, 0.5, 30),
  'openai/gpt-5.4': price(2.5, 0.25, 15),
  'openai/gpt-5.4-mini': price(0.75, 0.075, 4.5),
  'openai/gpt-5.4-nano': price(0.2, 0.02, 1.25),
  'openai/gpt-5.2': price(1.75, 0.175, 14),
  'openai/gpt-5.1': price(1.25, 0.125, 10),
  'openai/gpt-5': price(1.25, 0.125, 10),
  'openai/gpt-5-mini': price(0.25, 0.025, 2),
  'openai/gpt-5-nano': price(0.05, 0.005, 0.4),
  'openai/gpt-4.1': price(2, 0.5, 8),
  'openai/gpt-4.1-mini': price(0.4, 0.1, 1.6),
  'openai/gpt-4o': price(2.5, 1.25, 10),
  'openai/gpt-4o-mini': price(0.15, 0.075, 0.6),

  'google/gemini-2.5-pro': {
    ...price(1.25, 0.125, 10),
    longPrompt: { aboveTokens: 200_000, ...price(2.5, 0.25, 15) },
  },
  'google/gemini-2.5-flash': price(0.3, 0.03, 2.5),
  'google/gemini-2.5-flash-lite': price(0.1, 0.01, 0.4),

  'demo/*': price(0, 0, 0),
}
