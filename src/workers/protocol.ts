/**
 * What the gateway and a worker say to each other over their one socketpair.
 *
 * The socketpair carries HTTP/2; the gateway is the server, the worker the client, and the descriptor itself is
 * the worker's identity. Two kinds of stream:
 *
 * `POST http://gateway/session` lives as long as the worker: its response body brings `Command`s down, its request
 *   body takes `Report`s up, one JSON object a line, LF ends.
 * `POST http://gateway/steps`, `/steer` and `ANY http://gateway/model/{provider}/…` are ordinary requests, answered
 *   when the gateway has done its part: a step is durable when its request returns 204, and stale with 409.
 *
 * Each report and each request names the run and its fencing number (`RUN_HEADER`, `FENCE_HEADER` on requests, and
 * `TRACE_HEADER` when the turn is traced).
 * Order: a worker waits until its reports are on the socket before it sends a request about them, and the gateway
 * reads the session without buffering, so all deltas of a step arrive before the step.
 */
import type { ModelMessage } from 'ai'

/** A longer report or step ends the worker: nothing legitimate is that long, and an unbounded buffer would end the gateway. */
export const LINE_BYTES_MAX = 4 * 1024 * 1024
/** Longest command. Turns carry attachments as base64, so it is larger than what may come up. */
export const COMMAND_BYTES_MAX = 64 * 1024 * 1024
/** The inherited descriptor: 0–2 are standard, 3 is the socketpair. */
export const GATEWAY_FD = 3
/** Longest silence of a healthy worker during a turn. */
export const BEAT_MS = 10_000
export const RUN_HEADER = 'x-run-id'
export const FENCE_HEADER = 'x-run-fence'
/** Of the turn, when it is traced. https://www.w3.org/TR/trace-context/ */
export const TRACE_HEADER = 'traceparent'

/** Asks a model to take up its own answer, after `TurnCommand.partialText`. It is for the model alone and is never saved. */
export const CONTINUE_NOTE =
  'Your answer was cut off by a technical fault after exactly the text above. Continue it from the very next ' +
  'character. Do not repeat any of it, do not start over, and do not mention the interruption.'

export interface TurnCommand {
  type: 'turn'
  runId: string
  /** Fencing number of this claim of the run. */
  fence: number
  model: { provider: string; modelId: string }
  instructions: string
  /** The conversation so far, this turn's user messages and finished steps included. */
  messages: ModelMessage[]
  /** Text that an earlier attempt of this very step had streamed before it was cut off; the answer continues after it. */
  partialText: string
  limits: { stepsMax: number; outputTokensMax: number }
  /** Trace context of the turn, sent along with each request; absent when it is not traced. */
  traceparent?: string | undefined
}

export type Command =
  | TurnCommand
  /** Abort the turn at once; the worker reports `end` with status `cancelled`. */
  | { type: 'cancel'; runId: string }
  /** Leave: finish nothing, exit 0. */
  | { type: 'exit' }

export interface Usage {
  inputTokens: number
  outputTokens: number
  cachedInputTokens: number
}

export const NO_USAGE: Usage = { inputTokens: 0, outputTokens: 0, cachedInputTokens: 0 }

export function addUsage(a: Usage, b: Usage): Usage {
  return {
    inputTokens: a.inputTokens + b.inputTokens,
    outputTokens: a.outputTokens + b.outputTokens,
    cachedInputTokens: a.cachedInputTokens + b.cachedInputTokens,
  }
}

/** Why a turn did not complete. The message is one sentence that may be shown to the user. */
export interface TurnFailure {
  code: string
  message: string
  /** Another attempt may succeed. */
  retryable: boolean
}

/** Reasons for which a turn fails behind a step that is saved: what there is of the answer is kept. */
export const STEP_FAILURES = {
  filtered: { code: 'model_content_filtered', message: 'The model provider withheld the answer.', retryable: false },
  tokensSpent: {
    code: 'output_exhausted',
    message: 'The answer grew too long in the middle of a tool call.',
    retryable: false,
  },
} satisfies Record<string, TurnFailure>

/** How a step leaves its turn: saved with it, so that who takes it up after a crash ends it in the same way. */
export type StepFinish = 'continues' | 'answered' | keyof typeof STEP_FAILURES

export type Report =
  /** The modules are loaded and a turn would start at once. */
  | { type: 'ready' }
  | { type: 'delta'; runId: string; fence: number; text: string }
  | { type: 'tool'; runId: string; fence: number; name: string; phase: 'start' | 'end'; summary: string }
  /** Still at work, though silent. Every `BEAT_MS` during a turn. */
  | { type: 'beat'; runId: string; fence: number }
  | {
      type: 'end'
      runId: string
      fence: number
      status: 'completed' | 'failed' | 'cancelled'
      usage: Usage
      error?: TurnFailure | undefined
    }

/** Body of `POST /steps`: what one finished step of the loop added to the conversation. */
export interface StepRecord {
  runId: string
  fence: number
  /** 1 for the first step of this attempt, then up by one: the same step sent twice is saved once. */
  step: number
  /** Assistant and tool messages of this step alone. */
  messages: ModelMessage[]
  usage: Usage
  /** `provider/model` that wrote it. */
  model: string
  finish: StepFinish
}

/** Answer of `POST /steer` `{runId, fence}`: user messages that arrived for this turn and now belong to it. */
export interface SteerAnswer {
  messages: ModelMessage[]
}

/**
 * Cuts a byte stream into lines. `onLine` gets each line without its LF; empty lines are skipped.
 * A line longer than `bytesMax` calls `onOverflow` once, and nothing after it is read.
 */
export function createLineReader(args: { bytesMax: number; onLine(line: string): void; onOverflow(): void }) {
  // One buffer that doubles: a list of pieces would let one-byte frames cost a hundred times their size.
  let held: Buffer = Buffer.alloc(0)
  let heldBytes = 0
  let overflowed = false

  function hold(piece: Buffer) {
    const bytes = heldBytes + piece.length
    if (bytes > args.bytesMax) return overflow()
    if (bytes > held.length) {
      const larger = Buffer.allocUnsafe(Math.max(bytes, held.length * 2))
      held.copy(larger, 0, 0, heldBytes)
      held = larger
    }
    piece.copy(held, heldBytes)
    heldBytes = bytes
  }

  function overflow() {
    overflowed = true
    held = Buffer.alloc(0)
    args.onOverflow()
  }

  function takeLine(end: Buffer): string {
    if (heldBytes === 0) return end.toString('utf8')
    hold(end)
    const line = held.toString('utf8', 0, heldBytes)
    held = Buffer.alloc(0)
    heldBytes = 0
    return line
  }

  return (chunk: Buffer) => {
    let from = 0
    for (let end = chunk.indexOf(10); end >= 0 && !overflowed; end = chunk.indexOf(10, from)) {
      if (heldBytes + end - from > args.bytesMax) return overflow()
      const line = takeLine(chunk.subarray(from, end))
      from = end + 1
      if (line !== '') args.onLine(line)
    }
    if (!overflowed && from < chunk.length) hold(chunk.subarray(from))
  }
}
