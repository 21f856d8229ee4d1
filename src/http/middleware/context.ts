import { randomUUID } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import type { Context, MiddlewareHandler } from 'hono'
import { clientAddress, type TrustedProxies } from '../../lib/addresses.ts'
import type { Logger } from '../../lib/logger.ts'
import { readTraceparent } from '../../lib/traceparent.ts'
import { type Metrics, NO_METRICS } from '../../telemetry/metrics.ts'
import { NO_TRACER, type Tracer } from '../../telemetry/tracer.ts'
import type { Env } from '../env.ts'
import { logRequest, measureRequest, requestIds } from '../request-log.ts'
import { endSpan, traceRequest } from '../request-trace.ts'

/** Long enough for a UUID or a trace id with a prefix, and nothing that could forge a log line. */
const REQUEST_ID = /^[A-Za-z0-9._:-]{1,128}$/

/** Browsers that came by https once do not come otherwise for a year. https://www.rfc-editor.org/rfc/rfc6797 */
const STRICT_TRANSPORT = 'max-age=31536000'

export interface ContextDeps {
  log: Logger
  metrics?: Metrics | undefined
  tracer?: Tracer | undefined
  /** Nobody's `X-Forwarded-For` counts without it. */
  trustedProxies?: TrustedProxies
  /** Clients reach us by https. */
  https?: boolean
}

/**
 * The one middleware that every request passes: request id, logger, trace context, security headers, access log.
 * One and not five, because each layer of `await next()` costs more than all that is done here.
 */
export function context(deps: ContextDeps): MiddlewareHandler<Env> {
  const { log, metrics = NO_METRICS, tracer = NO_TRACER, trustedProxies = [], https = false } = deps
  return async (c, next) => {
    const startedAt = performance.now()
    const given = c.req.header('x-request-id')
    const requestId = given !== undefined && REQUEST_ID.test(given) ? given : `req_${randomUUID()}`
    const header = c.req.header('traceparent')
    const parent = readTraceparent(header) ? header : undefined
    // Of probes nobody wants to see the traces.
    const span = c.req.path.startsWith('/health') ? undefined : traceRequest(c, tracer, { parent, requestId })
    c.set('requestId', requestId)
    c.set('traceparent', span ? span.traceparent : parent)
    c.set('log', log.child(requestIds(c)))
    c.set('logFields', {})
    const peer = c.env?.incoming?.socket.remoteAddress
    c.set('clientAddress', clientAddress(peer, c.req.header('x-forwarded-for'), trustedProxies))
    const headers = commonHeaders(requestId, https)
    c.set('commonHeaders', headers)
    await next()
    setHeaders(c, headers)
    logRequest(c, { startedAt, log })
    measureRequest(c, metrics, startedAt)
    if (span) endSpan(c, span)
  }
}

function commonHeaders(requestId: string, https: boolean): Record<string, string> {
  return {
    'x-request-id': requestId,
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    'content-security-policy': "frame-ancestors 'none'",
    'x-frame-options': 'DENY',
    ...(https && { 'strict-transport-security': STRICT_TRANSPORT }),
  }
}

/**
 * Set on Node's response, which keeps Hono's cheap path for plain JSON. A handler that sets one of them itself, as the HTML
 * pages do with their own content security policy, wins. An event stream has sent them by now, together with its head: Node
 * keeps headers that were set one by one in a table for as long as the response, and that is for hours.
 */
function setHeaders(c: Context<Env>, headers: Record<string, string>): void {
  const outgoing = c.env?.outgoing as ServerResponse | undefined
  if (outgoing?.headersSent) return
  for (const [name, value] of Object.entries(headers)) {
    if (outgoing) outgoing.setHeader(name, value)
    else if (!c.res.headers.has(name)) c.header(name, value)
  }
}
