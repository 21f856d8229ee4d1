import {
  type LanguageModel,
  type LanguageModelUsage,
  type ModelMessage,
  streamText,
  type TextStreamPart,
  type ToolSet,
} from 'ai'
import { addUsage, NO_USAGE, type StepRecord, type TurnCommand, type TurnFailure, type Usage } from '../protocol.ts'
import { createDeltaBuffer } from './delta-buffer.ts'
import { describeFailure, TurnFailed } from './failures.ts'
import type { GatewayLink } from './gateway-link.ts'
import { continueAfter, joinPartialText, withoutOpenCalls } from './step-messages.ts'

/** Deltas go up at most this often; a person does not see the difference, the database does. */
const DELTA_EVERY_MS = 30
/** A provider that is silent for this long has hung; reasoning models do think for minutes before they speak. */
const MODEL_SILENCE_MS = 300_000
const SUMMARY_CHARS_MAX = 200

export interface AgentDeps {
  link: Pick<GatewayLink, 'report' | 'flushed' | 'saveStep' | 'takeSteer'>
  models: { load(provider: string, modelId: string): Promise<LanguageModel> }
  tools: ToolSet
}

export interface TurnOutcome {
  status: 'completed' | 'failed' | 'cancelled'
  usage: Usage
  error?: TurnFailure
}

/**
 * Runs one turn: model calls and their tools, step by step, until the model asks for no more tools.
 *
 *   ┌► call the model, stream its text ─► run its tools ─► save the step ─┬─ no tools ──► completed
 *   └───────────── take in what the user said meanwhile ◄─────────────────┘
 *
 * A step is durable before the next begins, so a crash costs at most one step. Never rejects. Failed connections are
 * tried again only while the step has said nothing; after that the turn fails as retryable, and whoever tries again
 * passes the text so far as `partialText`.
 */
export async function runTurn(deps: AgentDeps, turn: TurnCommand, signal: AbortSignal): Promise<TurnOutcome> {
  const progress = { usage: NO_USAGE, spoke: false }
  try {
    await runSteps(deps, turn, { signal, progress })
    return { status: 'completed', usage: progress.usage }
  } catch (error) {
    if (signal.aborted) return { status: 'cancelled', usage: progress.usage }
    return { status: 'failed', usage: progress.usage, error: describeFailure(error, { afterOutput: progress.spoke }) }
  }
}

interface Progress {
  usage: Usage
  /** The running step has sent text. */
  spoke: boolean
}

async function runSteps(deps: AgentDeps, turn: TurnCommand, run: { signal: AbortSignal; progress: Progress }) {
  const { runId, fence } = turn
  const model = await deps.models.load(turn.model.provider, turn.model.modelId)
  const messages = [...turn.messages]
  for (let step = 1; step <= turn.limits.stepsMax; step++) {
    if (step > 1) messages.push(...(await deps.link.takeSteer({ runId, fence })))
    const partialText = step === 1 ? turn.partialText : ''
    const done = await runStep(deps, turn, { ...run, model, messages: continueAfter(messages, partialText) })
    const record: StepRecord = {
      runId,
      fence,
      step,
      messages: joinPartialText(done.messages, partialText),
      usage: done.usage,
      model: `${turn.model.provider}/${turn.model.modelId}`,
      finish: done.failed ?? (done.continues ? 'continues' : 'answered'),
    }
    run.progress.usage = addUsage(run.progress.usage, done.usage)
    await deps.link.flushed()
    run.signal.throwIfAborted()
    if ((await deps.link.saveStep(record)) === 'stale') throw new TurnFailed('stale')
    messages.push(...record.messages)
    if (done.failed) throw new TurnFailed(done.failed)
    if (!done.continues) return
  }
  throw new TurnFailed('stepsSpent')
}

interface StepArgs {
  signal: AbortSignal
  progress: Progress
  model: LanguageModel
  messages: ModelMessage[]
}

/** One model call with its tools. Rejects when it was cut, aborted or refused; then nothing of it is to be saved. */
async function runStep(deps: AgentDeps, turn: TurnCommand, args: StepArgs) {
  const { runId, fence } = turn
  const deltas = createDeltaBuffer({
    everyMs: DELTA_EVERY_MS,
    send: (text) => deps.link.report({ type: 'delta', runId, fence, text }),
  })
  args.progress.spoke = false
  const result = streamText({
    model: args.model,
    instructions: turn.instructions,
    messages: args.messages,
    tools: deps.tools,
    maxOutputTokens: turn.limits.outputTokensMax,
    maxRetries: 2,
    timeout: { firstChunkMs: MODEL_SILENCE_MS, chunkMs: MODEL_SILENCE_MS },
    abortSignal: args.signal,
    // A worker fetches nothing itself: links in messages go to the provider as they are.
    experimental_download: async (links) => links.map(() => null),
    // OpenAI would keep the conversation and expect later calls to refer to it; ours is in our database.
    providerOptions: { openai: { store: false } },
    onError: () => {},
  })
  try {
    const parts = await readParts(result.stream, {
      onText(text) {
        args.progress.spoke = true
        deltas.push(text)
      },
      onTool(name, phase, data) {
        deltas.flush()
        deps.link.report({ type: 'tool', runId, fence, name, phase, summary: summarize(data) })
      },
    })
    args.signal.throwIfAborted()
    return { ...parts, messages: withoutOpenCalls(await result.responseMessages) }
  } finally {
    deltas.flush()
  }
}

interface PartReader {
  onText(text: string): void
  onTool(name: string, phase: 'start' | 'end', data: unknown): void
}

type FinishStep = Extract<TextStreamPart<ToolSet>, { type: 'finish-step' }>

/** Reads a step to its end and judges it. Throws what the stream reports as an error. */
async function readParts(stream: AsyncIterable<TextStreamPart<ToolSet>>, reader: PartReader) {
  let finish: FinishStep | undefined
  let openCalls = 0
  let calls = 0
  for await (const part of stream) {
    if (part.type === 'text-delta') reader.onText(part.text)
    else if (part.type === 'tool-call' && !part.providerExecuted) {
      calls++
      openCalls++
      reader.onTool(part.toolName, 'start', part.input)
    } else if ((part.type === 'tool-result' || part.type === 'tool-error') && !part.providerExecuted) {
      openCalls--
      reader.onTool(part.toolName, 'end', part.type === 'tool-result' ? part.output : 'failed')
    } else if (part.type === 'error') throw part.error
    else if (part.type === 'abort') throw new TurnFailed('timeout')
    else if (part.type === 'finish-step') finish = part
  }
  if (!finish || isCut(finish)) throw new TurnFailed('cut')
  return {
    usage: usageOf(finish.usage),
    continues: calls > 0 && openCalls === 0,
    failed: judge(finish, openCalls),
  }
}

/** The provider's stream stopped without a word about why, although the connection closed in good order. */
function isCut({ finishReason, rawFinishReason }: FinishStep): boolean {
  if (finishReason === 'error' || finishReason === 'interrupted') return true
  return finishReason === 'other' && rawFinishReason === undefined
}

/** What is kept of the step is kept, but the turn can't go on after it. */
function judge({ finishReason }: FinishStep, openCalls: number): 'filtered' | 'tokensSpent' | undefined {
  if (finishReason === 'content-filter') return 'filtered'
  return openCalls > 0 ? 'tokensSpent' : undefined
}

function summarize(data: unknown): string {
  const text = typeof data === 'string' ? data : (JSON.stringify(data) ?? '')
  return text.length > SUMMARY_CHARS_MAX ? `${text.slice(0, SUMMARY_CHARS_MAX - 1).toWellFormed()}…` : text
}

/** What a provider counted; 0 where it tells nothing. */
function usageOf(usage: LanguageModelUsage): Usage {
  return {
    inputTokens: usage.inputTokens ?? 0,
    outputTokens: usage.outputTokens ?? 0,
    cachedInputTokens: usage.inputTokenDetails.cacheReadTokens ?? 0,
  }
}
