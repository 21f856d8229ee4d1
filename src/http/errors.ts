import { z } from '@hono/zod-openapi'
import type { Context } from 'hono'
import { HTTPException } from 'hono/http-exception'
import type { ZodError } from 'zod'
import { AppError, type ErrorCode, errorLine } from '../lib/errors.ts'
import { type Env, isAgentApi } from './env.ts'
import { addLogFields, contextIds } from './request-log.ts'

/** The one table of statuses. `retryAfterSeconds` goes out where the error itself names no time. */
const ERRORS = {
  invalid_request: { status: 400, meaning: 'The request is malformed or a field is out of bounds' },
  model_unavailable: { status: 400, meaning: 'The provider of this model is not configured here' },
  unauthenticated: { status: 401, meaning: 'No credential, or one that is unknown, expired or revoked' },
  forbidden: { status: 403, meaning: 'The credential may not do this' },
  no_organization: { status: 403, meaning: 'Signed in, but a member of no organization' },
  cross_origin: {
    status: 403,
    meaning: 'A page of another origin may not do this with the cookie of a signed-in person',
  },
  not_found: { status: 404, meaning: 'No such thing in this organization' },
  method_not_allowed: { status: 405, meaning: 'The path exists, the method does not' },
  conflict: { status: 409, meaning: 'Contradicts what is stored' },
  limit_reached: {
    status: 409,
    meaning: 'There are as many as there may be: waiting does not help, removing some does',
  },
  conversation_busy: { status: 409, meaning: 'A run is active and the caller asked not to wait' },
  precondition_failed: { status: 412, meaning: 'Changed by someone else since it was read' },
  payload_too_large: { status: 413, meaning: 'The body or a file is over its limit' },
  unsupported_media_type: { status: 415, meaning: 'The body has another media type than the route takes' },
  idempotency_mismatch: { status: 422, meaning: 'The same id came before with another body' },
  queue_full: { status: 429, meaning: 'Too many messages wait already', retryAfterSeconds: 5 },
  rate_limited: { status: 429, meaning: 'This key or organization has made its requests of this minute' },
  budget_exhausted: { status: 429, meaning: "The organization's budget for this month is used up" },
  too_many_streams: { status: 503, meaning: 'This replica holds as many streams as it may', retryAfterSeconds: 5 },
  saturated: { status: 503, meaning: 'This replica has no room for more work', retryAfterSeconds: 1 },
  starting: { status: 503, meaning: 'This replica has just started and is not ready yet', retryAfterSeconds: 1 },
  draining: { status: 503, meaning: 'This replica is shutting down; another will answer', retryAfterSeconds: 1 },
  database_unavailable: { status: 503, meaning: 'The database cannot be reached', retryAfterSeconds: 1 },
} as const satisfies Record<ErrorCode, { status: number; meaning: string; retryAfterSeconds?: number }>

type Statuses = typeof ERRORS
type ErrorStatus = Statuses[ErrorCode]['status'] | 500

/** Body of every error. The agent API (`/api/v1`) adds `success: false` and leaves out `details`. */
const ErrorBody = z
  .object({
    success: z.literal(false).optional(),
    error: z.string().openapi({ description: 'One sentence for a person; may change' }),
    code: z.string().openapi({ description: 'Stable word for programs', example: 'not_found' }),
    requestId: z.string().optional().openapi({ description: 'Names this request in the logs of the gateway' }),
    details: z.unknown().optional(),
  })
  .openapi('Error')

interface ErrorResponse {
  description: string
  content: { 'application/json': { schema: typeof ErrorBody } }
}

/**
 * The `responses` part of `createRoute` for the errors that a route can give, listed by code. Whoever has a credential has
 * a rate as well, so `rate_limited` goes without saying.
 */
export function errors<Code extends ErrorCode>(...codes: Code[]): { [S in Statuses[Code]['status']]: ErrorResponse } {
  const responses: Record<number, ErrorResponse> = {}
  const all: ErrorCode[] = codes.includes('unauthenticated' as Code) ? [...codes, 'rate_limited'] : codes
  for (const code of all) {
    const { status, meaning } = ERRORS[code]
    const line = `\`${code}\`: ${meaning}.`
    const before = responses[status]
    const description = before ? `${before.description} ${line}` : line
    responses[status] = { description, content: { 'application/json': { schema: ErrorBody } } }
  }
  return responses as { [S in Statuses[Code]['status']]: ErrorResponse }
}

/**
 * Hono's `onError`. What a caller can act on becomes its status and code; an unreachable database becomes a 503;
 * anything else is a bug: it is logged once with its stack, and the caller gets a 500 with the request id and no details.
 */
export function handleError(error: Error, c: Context<Env>): Response {
  const known = translate(error)
  if (!known) {
    c.get('log').error({ ...contextIds(c), err: errorLine(error), at: stackLines(error) }, 'request failed')
    return respond(c, { status: 500, code: 'internal', message: 'Something went wrong on our side' })
  }
  if (known.code === 'database_unavailable')
    c.get('log').warn({ ...contextIds(c), err: errorLine(error) }, 'database unavailable')
  return answerError(c, known)
}

/** The response of one known error, for what is answered without being thrown. */
export function answerError(c: Context<Env>, error: AppError): Response {
  const entry: { status: ErrorStatus; retryAfterSeconds?: number } = ERRORS[error.code]
  const retryAfterSeconds = error.retryAfterSeconds ?? entry.retryAfterSeconds
  if (retryAfterSeconds !== undefined) c.header('retry-after', String(Math.max(1, Math.ceil(retryAfterSeconds))))
  if (error.code === 'unauthenticated') c.header('www-authenticate', challenge(c))
  // The rest of such a body is not worth waiting for, so the connection is not used again.
  if (error.code === 'payload_too_large') c.header('connection', 'close')
  return respond(c, { status: entry.status, code: error.code, message: error.message, details: error.details })
}

/** How to be let in; MCP clients follow the link by themselves. https://www.rfc-editor.org/rfc/rfc9728#section-5 */
function challenge(c: Context<Env>): string {
  const metadata = c.get('resourceMetadata')
  return `Bearer realm="lobu"${metadata ? `, resource_metadata="${metadata}"` : ''}`
}

/** zod-openapi's hook after validation: turns what zod found into one readable `invalid_request`. */
export function refuseInvalid(result: { success: boolean; target: string; error?: ZodError }): void {
  if (result.success || !result.error) return
  const places: Record<string, string> = { query: 'query ', param: 'path ', header: 'header ', cookie: 'cookie ' }
  const fields = result.error.issues.slice(0, 10).map((issue) => ({
    field: `${places[result.target] ?? ''}${fieldPath(issue.path)}`,
    message: issue.message,
  }))
  const sentence = fields.map(({ field, message }) => (field ? `${field}: ${message}` : message)).join('; ')
  throw new AppError('invalid_request', sentence, { details: fields })
}

/** `mcpServers.files.headers[0]`, as a person would write it. */
function fieldPath(path: PropertyKey[]): string {
  return path
    .map((key, index) => (typeof key === 'number' ? `[${key}]` : index === 0 ? String(key) : `.${String(key)}`))
    .join('')
    .slice(0, 200)
}

function respond(
  c: Context<Env>,
  args: { status: ErrorStatus; code: string; message: string; details?: unknown },
): Response {
  const { status, code, message, details } = args
  addLogFields(c, { code })
  const requestId = status >= 500 ? { requestId: c.get('requestId') } : {}
  if (isAgentApi(c)) return c.json({ success: false, error: message, code, ...requestId }, status)
  return c.json({ error: message, code, ...requestId, ...(details === undefined ? {} : { details }) }, status)
}

/** Text that Postgres cannot store, such as NUL in an id. https://www.postgresql.org/docs/current/errcodes-appendix.html */
const UNSTORABLE = new Set(['22021', '22P05'])

function translate(error: Error): AppError | undefined {
  if (error instanceof AppError) return error
  if (UNSTORABLE.has(String((error as { code?: unknown }).code))) {
    return new AppError('invalid_request', 'The request holds characters that cannot be stored', { cause: error })
  }
  if (error instanceof HTTPException) return ofHttpException(error)
  if (isDatabaseUnavailable(error)) {
    return new AppError('database_unavailable', 'The database cannot be reached right now', { cause: error })
  }
  return undefined
}

/** Hono and zod-openapi throw these for broken JSON (400) and media types (415). */
function ofHttpException(error: HTTPException): AppError | undefined {
  const codes = Object.keys(ERRORS) as ErrorCode[]
  const code = codes.find((candidate) => ERRORS[candidate].status === error.status)
  return code && new AppError(code, error.message || ERRORS[code].meaning, { cause: error })
}

/**
 * Codes of postgres.js and of `src/db/socket.ts`, of the operating system and of Postgres that mean "not now":
 * https://github.com/porsager/postgres#connection-errors, https://www.postgresql.org/docs/current/errcodes-appendix.html
 */
const UNAVAILABLE = new Set([
  ...['CONNECT_TIMEOUT', 'CONNECT_CLOSED', 'CONNECTION_CLOSED', 'CONNECTION_ENDED', 'CONNECTION_DESTROYED'],
  ...['ECONNREFUSED', 'ECONNRESET', 'EHOSTUNREACH', 'ENETUNREACH', 'ENOTFOUND', 'EAI_AGAIN', 'EPIPE', 'ETIMEDOUT'],
  // Shutdown, crash, starting up, too many connections, a standby that has just lost its primary's role.
  ...['57P01', '57P02', '57P03', '53300', '25006'],
  // Given up so that others go on: too long a statement or a pause in a transaction, a deadlock. Nothing was changed.
  ...['57014', '25P03', '40P01', '40001'],
])

/** Looks at the error and, where drizzle wrapped it, at its cause; not deeper, since a model's refusal is not the database's. */
function isDatabaseUnavailable(error: Error): boolean {
  const spoken = error.message.startsWith('Failed query') && error.cause instanceof Error ? error.cause : error
  const code = (spoken as { code?: unknown }).code
  return typeof code === 'string' && (UNAVAILABLE.has(code) || /^08[0-9A-Z]{3}$/.test(code))
}

/** Where it happened, without the message: that may hold what a caller wrote. */
function stackLines(error: Error): string[] {
  const lines = (error.stack ?? '').split('\n').filter((line) => /^\s+at /.test(line))
  return lines.slice(0, 8).map((line) => line.trim())
}
