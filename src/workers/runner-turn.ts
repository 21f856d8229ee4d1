import type { Sql } from '../db/client.ts'
import { loadTurn, type TurnContext } from '../domain/runs/begin.ts'
import { saveStep } from '../domain/runs/save-step.ts'
import { STEP_SEPARATOR } from '../domain/runs/streamed-text.ts'
import type { CostOf } from '../domain/usage/prices.ts'
import type { Logger } from '../lib/logger.ts'
import { retry } from '../lib/retry.ts'
import type { ClaimedRun } from '../queue/runs.ts'
import { type Metrics, NO_METRICS } from '../telemetry/metrics.ts'
import { outlastOutage } from './outlast-outage.ts'
import { addUsage, type StepRecord, type TurnCommand, type Usage } from './protocol.ts'
import type { RunReplies } from './replies.ts'
import type { TurnHandlers } from './turn.ts'

/** A turn in progress on this replica: what came before, and what has been said since. */
export interface TurnInProgress {
  readonly run: ClaimedRun
  readonly context: TurnContext
  /** All text of the turn so far, as clients see it. */
  text(): string
  /** Total cost, earlier attempts included. */
  usage(ofThisAttempt: Usage): Usage
  readonly handlers: TurnHandlers
  saveStep(step: StepRecord): Promise<'saved' | 'stale'>
}

/** Tries of one step against a database that does not answer; the lease is lost long before they are used up. */
const SAVE_AGAIN = { tries: 20, baseMs: 100, maxMs: 1_000 }

/**
 * Takes up a claimed run: reads the conversation, sends what an earlier attempt still owed the stream, and says that
 * it is being worked on. `onTooLong` is told when it says more than it may. Returns null when the conversation is gone.
 */
export async function beginTurn(
  deps: { sql: Sql; log: Logger; costOf: CostOf; metrics?: Metrics },
  args: { run: ClaimedRun; replies: RunReplies; signal: AbortSignal; textCharsMax: number; onTooLong(): void },
): Promise<TurnInProgress | null> {
  const { run, replies, signal } = args
  const context = await outlastOutage(() => loadTurn(deps.sql, run), { log: deps.log, signal })
  if (!context) return null
  const startedAt = performance.now()
  let text = context.text
  // Two steps' texts are two paragraphs; the separator goes out with the first words of the later one.
  let separatorDue = context.hasSavedText && context.partialText === ''

  const sayRunning = () =>
    replies.event('status', {
      type: 'status',
      status: { elapsedSeconds: Math.round((performance.now() - startedAt) / 1000), state: 'running' },
      messageId: run.messageId,
      timestamp: Date.now(),
    })
  sayRunning()
  if (context.missingText !== '') replies.delta(context.missingText)

  return {
    run,
    context,
    text: () => text,
    usage: (own) => addUsage(context.usage, own),
    handlers: {
      onDelta(piece) {
        const visible = separatorDue ? STEP_SEPARATOR + piece : piece
        separatorDue = false
        // What is said is one event at the end, is stored and is read again: it must have an end itself.
        if (text.length + visible.length > args.textCharsMax) return args.onTooLong()
        text += visible
        replies.delta(visible)
      },
      onTool: (tool) => replies.event('tool-use', { ...tool, messageId: run.messageId, timestamp: Date.now() }),
      onBeat: sayRunning,
      hasRoom: replies.hasRoom,
    },
    async saveStep(step) {
      const costMicros = deps.costOf(step.model, step.usage)
      const save = () => saveStep(deps.sql, run, { ...step, costMicros })
      // Not cut short by the abort: a step at hand-over is worth one more try.
      const when = () => !signal.aborted
      const saved = await retry(save, { ...SAVE_AGAIN, when, log: deps.log, waiting: 'step waits for the database' })
      if (!saved) return 'stale'
      separatorDue = text !== ''
      countStep(deps.metrics ?? NO_METRICS, step, costMicros)
      return 'saved'
    },
  }
}

function countStep(metrics: Metrics, { model: name, usage }: StepRecord, costMicros: number | null) {
  const [provider = '', ...rest] = name.split('/')
  const labels = { provider, model: rest.join('/') }
  metrics.count('lobu_tokens_total', { ...labels, kind: 'input' }, usage.inputTokens)
  metrics.count('lobu_tokens_total', { ...labels, kind: 'cached_input' }, usage.cachedInputTokens)
  metrics.count('lobu_tokens_total', { ...labels, kind: 'output' }, usage.outputTokens)
  if (costMicros !== null) metrics.count('lobu_cost_usd_total', labels, costMicros / 1_000_000)
}

/** The order to the worker. */
export function toCommand(
  turn: TurnInProgress,
  model: TurnCommand['model'],
  limits: TurnCommand['limits'],
): TurnCommand {
  return {
    type: 'turn',
    runId: turn.run.id,
    fence: turn.run.fence,
    model,
    instructions: turn.context.instructions,
    messages: turn.context.messages,
    partialText: turn.context.partialText,
    limits,
  }
}
