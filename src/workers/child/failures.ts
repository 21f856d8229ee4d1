import { APICallError } from 'ai'
import { STEP_FAILURES, type TurnFailure } from '../protocol.ts'
import { StepNotSaved } from './gateway-link.ts'
import { UnknownProvider } from './models.ts'

const DETAIL_CHARS_MAX = 200
/** A provider may quote what it was sent; nothing that looks like a credential goes further. */
const KEY_LIKE = /\b(sk|pk|key|AIza)[-_]?[\w-]{8,}/gi

const FAILURES = {
  ...STEP_FAILURES,
  rateLimited: failure('model_rate_limited', 'The model provider is limiting requests. Try again in a moment.', true),
  overloaded: failure('model_overloaded', 'The model provider is overloaded. Try again in a moment.', true),
  unavailable: failure('model_unavailable', 'The model provider could not be reached.', true),
  timeout: failure('model_timeout', 'The model provider took too long to answer.', true),
  cut: failure('model_stream_cut', 'The model provider broke off in the middle of its answer.', true),
  auth: failure('model_auth_failed', 'The model provider refused the credentials of this gateway.', false),
  badRequest: failure('model_bad_request', 'The model provider refused the request.', false),
  empty: failure('model_empty_answer', 'The model provider answered with nothing.', true),
  stepsSpent: failure('steps_exhausted', 'The agent used all its steps without coming to an end.', false),
  stepNotSaved: failure('step_not_saved', 'The gateway could not store a step of the answer.', true),
  stepTooLarge: failure('step_too_large', 'The answer is too large to be stored.', false),
  stale: failure('run_stale', 'The run was taken over by someone else.', false),
  unknownProvider: failure('model_unknown_provider', 'The model provider of this agent is not known here.', false),
  internal: failure('agent_failed', 'The agent failed in an unexpected way.', false),
} satisfies Record<string, TurnFailure>

/** A turn that ends for a known reason. */
export class TurnFailed extends Error {
  readonly failure: TurnFailure

  constructor(reason: keyof typeof FAILURES) {
    super(FAILURES[reason].code)
    this.name = 'TurnFailed'
    this.failure = FAILURES[reason]
  }
}

/**
 * What to tell about anything that was thrown in a turn: a stable code and one short sentence. Nothing of the error
 * itself is quoted, but for why a provider refused a request: only that tells the user what to change.
 *
 * @param afterOutput the provider had begun to answer, so a lost connection means a cut stream.
 */
export function describeFailure(error: unknown, { afterOutput = false } = {}): TurnFailure {
  const cause = innermost(error)
  if (cause instanceof TurnFailed) return cause.failure
  if (cause instanceof StepNotSaved) return cause.status === 413 ? FAILURES.stepTooLarge : FAILURES.stepNotSaved
  if (cause instanceof UnknownProvider) return FAILURES.unknownProvider
  if (isNamed(cause, 'TimeoutError')) return FAILURES.timeout
  if (isNamed(cause, 'AI_NoOutputGeneratedError')) return FAILURES.empty
  if (APICallError.isInstance(cause)) return describeCall(cause, afterOutput)
  if (cause instanceof TypeError && /terminated|fetch failed/.test(cause.message)) {
    return afterOutput ? FAILURES.cut : FAILURES.unavailable
  }
  if (isGarbled(cause)) return FAILURES.cut
  if (isRefusedBySdk(cause)) return FAILURES.badRequest
  return describeEvent(cause) ?? FAILURES.internal
}

function describeCall(error: APICallError, afterOutput: boolean): TurnFailure {
  const { statusCode, message } = error
  if (statusCode === undefined || statusCode < 400) return describeEvent(error.data) ?? lostCall(afterOutput)
  return describeStatus(statusCode, message)
}

function describeStatus(status: number, reason: string): TurnFailure {
  if (status === 429) return FAILURES.rateLimited
  if (status === 503 || status === 529) return FAILURES.overloaded
  if (status === 401 || status === 403) return FAILURES.auth
  if (status === 408 || status === 504) return FAILURES.timeout
  if (status >= 500) return FAILURES.unavailable
  const detail = oneLine(reason)
  const message = `The model provider refused the request (HTTP ${status})${detail === '' ? '.' : `: ${detail}`}`
  return { ...FAILURES.badRequest, message }
}

function lostCall(afterOutput: boolean) {
  return afterOutput ? FAILURES.cut : FAILURES.unavailable
}

/** Errors that a provider sends inside its stream: with a status, or in words such as `overloaded_error`. */
function describeEvent(event: unknown): TurnFailure | undefined {
  const { statusCode, code, message } = (event ?? {}) as Record<string, unknown>
  const status = [statusCode, code].find((number) => typeof number === 'number' && number >= 400 && number < 600)
  if (status !== undefined) return describeStatus(status as number, typeof message === 'string' ? message : '')
  const words = eventWords(event)
  if (words === '') return undefined
  if (/rate.?limit|quota|resource_exhausted/i.test(words)) return FAILURES.rateLimited
  if (/overload|unavailable/i.test(words)) return FAILURES.overloaded
  if (/auth|permission|api.?key/i.test(words)) return FAILURES.auth
  if (/timeout|deadline/i.test(words)) return FAILURES.timeout
  if (/invalid|context_length|not_found/i.test(words)) return FAILURES.badRequest
  return FAILURES.unavailable
}

function eventWords(event: unknown): string {
  if (typeof event === 'string') return event
  if (typeof event !== 'object' || event === null || event instanceof Error) return ''
  const { type, code, status, error } = event as Record<string, unknown>
  return `${[type, code, status].filter((word) => typeof word === 'string').join(' ')} ${eventWords(error)}`.trim()
}

/** `ai` wraps the last error of several tries, and providers wrap what their stream threw. */
function innermost(error: unknown): unknown {
  if (isNamed(error, 'AI_RetryError')) return innermost((error as { lastError?: unknown }).lastError)
  return error
}

/** What came is not what the provider's format allows: cut off between two chunks, or inside one. */
function isGarbled(error: unknown): boolean {
  return (
    error instanceof Error &&
    /^AI_(JSONParse|TypeValidation|InvalidResponseData|EmptyResponseBody)Error$/.test(error.name)
  )
}

/** The prompt or model was refused before anything was sent. */
function isRefusedBySdk(error: unknown): boolean {
  return (
    error instanceof Error && /^AI_(InvalidPrompt|Unsupported|NoSuchModel|InvalidArgument|Download)/.test(error.name)
  )
}

function isNamed(error: unknown, name: string): error is Error {
  return typeof error === 'object' && error !== null && (error as { name?: unknown }).name === name
}

function oneLine(text: string): string {
  // In this order: of a key that is cut first, the beginning would not be known for one.
  return text.replace(/\s+/g, ' ').trim().replace(KEY_LIKE, '[redacted]').slice(0, DETAIL_CHARS_MAX)
}

function failure(code: string, message: string, retryable: boolean): TurnFailure {
  return { code, message, retryable }
}
