import type { ServerResponse } from 'node:http'
import type { Context } from 'hono'
import { routePath } from 'hono/route'
import type { Logger } from '../lib/logger.ts'
import { statusClass } from '../lib/status-class.ts'
import { traceIdOf } from '../lib/traceparent.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import type { Env } from './env.ts'

/** Adds ids and outcomes to the request's one log line. Never tokens, message text or query parameters. */
export function addLogFields(c: Context<Env>, fields: Record<string, string | number | boolean>): void {
  Object.assign(c.get('logFields') ?? {}, fields)
}

/** What else Node's parser lets through counts as one. */
const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])

/** Counts the request by what it was; of an event stream the time until it was open. */
export function measureRequest(c: Context<Env>, metrics: Metrics, startedAt: number): void {
  if (!metrics.enabled) return
  const status = statusOf(c)
  const { method } = c.req
  metrics.observe(
    'lobu_http_request_duration_seconds',
    {
      method: METHODS.has(method) ? method : 'other',
      route: routePath(c),
      status: statusClass(status),
    },
    (performance.now() - startedAt) / 1000,
  )
}

/** Of an event stream the handler has answered on Node's response itself. */
export function statusOf(c: Context<Env>): number {
  const outgoing = c.env?.outgoing as ServerResponse | undefined
  return outgoing?.headersSent === true ? outgoing.statusCode : c.res.status
}

/**
 * Writes the request's line once its handler is done; for an event stream, which the handler has taken over by
 * writing to Node's response itself, one line now and one when it closes.
 */
export function logRequest(c: Context<Env>, { startedAt, log: common }: { startedAt: number; log: Logger }): void {
  const log = c.get('log')
  const outgoing = c.env?.outgoing as ServerResponse | undefined
  const takenOver = outgoing?.headersSent === true
  // The pattern of the handler that answered, or of the middleware that refused: few values, whatever paths come in.
  const route = routePath(c)
  const level = isProbe(route) ? 'debug' : 'info'
  if (!log.isLevelEnabled(level)) return
  const line = {
    method: c.req.method,
    route,
    ...contextIds(c),
    ...actorIds(c),
    ...c.get('logFields'),
    status: statusOf(c),
    ms: elapsed(startedAt),
  }
  log[level](line, takenOver ? 'stream opened' : 'request')
  if (!takenOver) return
  // Each stream keeps this for hours: so not the request's own logger, and `on`, where `once` would wrap what comes once anyhow.
  const last = { ...requestIds(c), ...line }
  outgoing.on('close', () => common.info({ ...last, ms: elapsed(startedAt) }, 'stream closed'))
}

/** Probes come every few seconds and say nothing while all is well. */
function isProbe(route: string): boolean {
  return route.startsWith('/health')
}

const CONVERSATION_PATH = /^\/api\/v1\/agents\/([\w-]{1,100})(?:\/|$)/

/** Whose the request is, and what it is about, as far as that is known by now. */
export function contextIds(c: Context<Env>): { organizationId?: string; conversationId?: string; runId?: string } {
  const actor = c.get('actor')
  // Who is nobody's may write anything into a path.
  if (!actor) return {}
  const conversationId = CONVERSATION_PATH.exec(c.req.path)?.[1]
  const { runId } = c.get('logFields')
  return {
    organizationId: actor.organizationId,
    ...(conversationId === undefined ? {} : { conversationId }),
    ...(typeof runId === 'string' ? { runId } : {}),
  }
}

function actorIds(c: Context<Env>) {
  const actor = c.get('actor')
  return actor && { org: actor.organizationSlug, user: actor.userId, credential: actor.kind }
}

/** What the request's own logger writes on every line. */
export function requestIds(c: Context<Env>): { requestId: string; traceId?: string } {
  const requestId = c.get('requestId')
  const traceId = traceIdOf(c.get('traceparent'))
  return traceId === undefined ? { requestId } : { requestId, traceId }
}

function elapsed(startedAt: number): number {
  return Math.round((performance.now() - startedAt) * 10) / 10
}
