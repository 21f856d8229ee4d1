/** Every code a caller can meet. `http/errors.ts` maps each to its status; clients branch on these words. */
export type ErrorCode =
  | 'invalid_request'
  | 'unauthenticated'
  | 'forbidden'
  | 'no_organization'
  | 'cross_origin'
  | 'not_found'
  | 'method_not_allowed'
  | 'conflict'
  | 'limit_reached'
  | 'conversation_busy'
  | 'idempotency_mismatch'
  | 'precondition_failed'
  | 'payload_too_large'
  | 'unsupported_media_type'
  | 'queue_full'
  | 'rate_limited'
  | 'budget_exhausted'
  | 'too_many_streams'
  | 'saturated'
  | 'draining'
  | 'starting'
  | 'database_unavailable'
  | 'model_unavailable'

/**
 * What a caller can act on: a stable code and a message that is safe to show.
 * Anything else that is thrown is a bug and becomes a bare 500 with a request id.
 */
export class AppError extends Error {
  readonly code: ErrorCode
  /** Seconds for `Retry-After`; only for what heals by itself. */
  readonly retryAfterSeconds: number | undefined
  /** Machine-readable extras, such as the list of faulty fields. Safe to show. */
  readonly details: unknown

  constructor(
    code: ErrorCode,
    message: string,
    options: { retryAfterSeconds?: number; details?: unknown; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause })
    this.name = 'AppError'
    this.code = code
    this.retryAfterSeconds = options.retryAfterSeconds
    this.details = options.details
  }
}

/** Long enough for any sentence, short enough for a log line. */
const LINE_CHARS_MAX = 500

/**
 * One line that says what failed, without the parameters that drizzle puts into its messages:
 * its errors read `Failed query: … params: …`, so the cause (the driver's own error) speaks instead.
 */
export function errorLine(error: unknown): string {
  if (!(error instanceof Error))
    return toLine(typeof error === 'object' ? Object.prototype.toString.call(error) : String(error))
  if (error.message.startsWith('Failed query')) {
    return error.cause instanceof Error ? errorLine(error.cause) : `${error.name}: Failed query`
  }
  const { code } = error as { code?: unknown }
  return toLine(`${error.name}: ${error.message}${typeof code === 'string' ? ` (${code})` : ''}`)
}

function toLine(text: string): string {
  return text.replaceAll(/\s*[\r\n]+\s*/g, ' ').slice(0, LINE_CHARS_MAX)
}
