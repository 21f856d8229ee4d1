import type { ModelMessage } from 'ai'
import { z } from 'zod'
import type { Report, StepRecord } from './protocol.ts'

/**
 * What a worker may say, checked before anything else looks at it: a worker runs what a model told it to, so its
 * words are input like any caller's.
 */
const RunFields = { runId: z.string().max(100), fence: z.number() }
const TokenCount = z.number().int().min(0).max(1_000_000_000)
const UsageFrame = z.object({ inputTokens: TokenCount, outputTokens: TokenCount, cachedInputTokens: TokenCount })
const FailureFrame = z.object({ code: z.string().max(100), message: z.string().max(1000), retryable: z.boolean() })

const ReportFrame = z.discriminatedUnion('type', [
  z.object({ type: z.literal('ready') }),
  z.object({ type: z.literal('delta'), ...RunFields, text: z.string() }),
  z.object({
    type: z.literal('tool'),
    ...RunFields,
    name: z.string().max(200),
    phase: z.enum(['start', 'end']),
    summary: z.string().max(1000),
  }),
  z.object({ type: z.literal('beat'), ...RunFields }),
  z.object({
    type: z.literal('end'),
    ...RunFields,
    status: z.enum(['completed', 'failed', 'cancelled']),
    usage: UsageFrame,
    error: FailureFrame.optional(),
  }),
])

/** Parts keep fields that only their provider knows; it wants them back in the next call. */
const Part = z.looseObject({ type: z.string().max(100) })
const StepFrame = z.object({
  ...RunFields,
  step: z.number().int().min(1).max(1_000_000),
  messages: z
    .array(z.looseObject({ role: z.enum(['assistant', 'tool']), content: z.union([z.string(), z.array(Part)]) }))
    .max(1000),
  usage: UsageFrame,
  model: z.string().max(300),
  finish: z.enum(['continues', 'answered', 'filtered', 'tokensSpent']),
})

/** One line of a worker's session, or undefined when it is not a report. */
export function parseReport(line: string): Report | undefined {
  return parse(line, ReportFrame)
}

/** The body of `POST /steps`, or undefined when it is not a step. */
export function parseStep(body: string): StepRecord | undefined {
  const step = parse(body, StepFrame)
  return step && { ...step, messages: step.messages as ModelMessage[] }
}

function parse<T>(text: string, schema: z.ZodType<T>): T | undefined {
  try {
    return schema.safeParse(JSON.parse(text)).data
  } catch {
    return undefined
  }
}
