import type { Headers } from '../contract.ts'
import type { Turn } from './compose.ts'

/** What all chunks of one answer have in common. */
export interface Envelope {
  id: string
  created: number
  model: string
}

export interface TokenCounts {
  prompt_tokens: number
  completion_tokens: number
  total_tokens: number
}

export const STREAM_HEADERS: Headers = { 'content-type': 'text/event-stream', 'cache-control': 'no-store' }
export const JSON_HEADERS: Headers = { 'content-type': 'application/json', 'cache-control': 'no-store' }

interface Delta {
  role?: 'assistant'
  content?: string | null
  tool_calls?: unknown[]
}

/**
 * One server-sent event of a streamed chat completion.
 * https://platform.openai.com/docs/api-reference/chat-streaming
 */
export function chunkEvent(envelope: Envelope, delta: Delta, finishReason: string | null = null): string {
  return event(envelope, { choices: [{ index: 0, delta, finish_reason: finishReason }] })
}

/** The extra chunk that `stream_options.include_usage` asks for: no choices, only counts. */
export function usageEvent(envelope: Envelope, usage: TokenCounts): string {
  return event(envelope, { choices: [], usage })
}

export const DONE_EVENT = 'data: [DONE]\n\n'

/** The whole answer at once, for a request without `stream`. */
export function completionBody(envelope: Envelope, turn: Turn, usage: TokenCounts): string {
  const message =
    turn.kind === 'tool'
      ? { role: 'assistant', content: null, tool_calls: [toolCall(turn)] }
      : { role: 'assistant', content: turn.words.join('') }
  const choices = [{ index: 0, message, finish_reason: finishReasonOf(turn) }]
  return JSON.stringify({ ...envelope, object: 'chat.completion', choices, usage })
}

export function finishReasonOf(turn: Turn): string {
  return turn.kind === 'tool' ? 'tool_calls' : 'stop'
}

/** A call without arguments. In a stream the caller adds its `index`. */
export function toolCall(turn: Turn & { kind: 'tool' }) {
  return { id: turn.callId, type: 'function', function: { name: turn.name, arguments: '{}' } }
}

function event(envelope: Envelope, rest: object): string {
  return `data: ${JSON.stringify({ ...envelope, object: 'chat.completion.chunk', ...rest })}\n\n`
}
