import { z } from 'zod'
import type { RunUsage } from '../../db/tables.ts'
import { PRICE_TABLE, type Price } from './price-table.ts'

/** Millionths of a US dollar that one model call cost; null when the model, `provider/model`, has no price. */
export type CostOf = (model: string, usage: RunUsage) => number | null

const Dollars = z.number().min(0).max(1_000_000)
const Rates = { input: Dollars, output: Dollars, cachedInput: Dollars.optional() }
const PriceFile = z.record(
  z.string().regex(/^[^/]+\/.+$/, 'must be provider/model or provider/*'),
  z.strictObject({
    ...Rates,
    longPrompt: z.strictObject({ aboveTokens: z.number().int().min(1), ...Rates }).optional(),
  }),
)

/** What vendors put behind a model's name for one release of it. */
const RELEASE = /-(\d{8}|\d{4}-\d{2}-\d{2}|latest)$/

/**
 * The built-in prices, and over them those of a file: JSON like `{"openai/gpt-x": {"input": 1.25, "cachedInput": 0.125,
 * "output": 10}}` in US dollars per million tokens. `provider/*` stands for every model of a provider that has no price of
 * its own. Cached input without a price costs as much as other input.
 *
 * @throws Error with one sentence that says what is wrong with the file.
 */
export function createPrices(file?: string): CostOf {
  const prices = new Map(Object.entries({ ...PRICE_TABLE, ...(file === undefined ? {} : parseFile(file)) }))

  function find(model: string): Price | undefined {
    const [provider] = model.split('/', 1)
    return prices.get(model) ?? prices.get(model.replace(RELEASE, '')) ?? prices.get(`${provider}/*`)
  }

  return (model, usage) => {
    const found = find(model)
    if (!found) return null
    const { longPrompt } = found
    const rates = longPrompt && usage.inputTokens > longPrompt.aboveTokens ? longPrompt : found
    const cached = Math.min(usage.cachedInputTokens, usage.inputTokens)
    const fresh = usage.inputTokens - cached
    return Math.round(fresh * rates.input + cached * rates.cachedInput + usage.outputTokens * rates.output)
  }
}

function parseFile(text: string): Record<string, Price> {
  const parsed = PriceFile.safeParse(readJson(text))
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    throw new Error(`The file of prices is not usable: ${issue?.path.join(' ')}: ${issue?.message}`)
  }
  const entries = Object.entries(parsed.data).map(([model, { longPrompt, ...rates }]) => {
    const long = longPrompt && { aboveTokens: longPrompt.aboveTokens, ...complete(longPrompt) }
    return [model, { ...complete(rates), ...(long ? { longPrompt: long } : {}) }] as const
  })
  return Object.fromEntries(entries)
}

function complete({ input, output, cachedInput }: { input: number; output: number; cachedInput?: number | undefined }) {
  return { input, output, cachedInput: cachedInput ?? input }
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new Error('The file of prices is not JSON')
  }
}
