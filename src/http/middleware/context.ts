import { randomUUID } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import type { Context, MiddlewareHandler } from 'hono'
import { clientAddress, type TrustedProxies } from '../../lib/addresses.ts'
import type { Logger } from '../../lib/logger.ts'
import { readTraceparent, traceIdOf } from '../../lib/traceparent.ts'
import { type Metrics, NO_METRICS } from '../../telemetry/metrics.ts'
import { NO_TRACER, type Tracer } from '../../telemetry/tracer.ts'
import type { Env } from '../env.ts'
import { logRequest, measureRequest } from '../request-log.ts'
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
    const traceparent = span ? span.traceparent : parent
    const traceId = traceIdOf(traceparent)
    c.set('requestId', requestId)
    c.set('log', log.child(traceId === undefined ? { requestId } : { requestId, traceId }))
    c.set('traceparent', traceparent)
    c.set('logFields', {})
    const peer = c.env?.incoming?.socket.remoteAddress
    c.set('clientAddress', clientAddress(peer, c.req.header('x-forwarded-for'), trustedProxies))
    setHeaders(c, requestId, https)
    await next()
    logRequest(c, startedAt)
    measureRequest(c, metrics, startedAt)
    if (span) endSpan(c, span)
  }
}

/**
 * Set on Node's response, which also reaches event streams and keeps Hono's cheap path for plain JSON. A handler that
 * sets one of them itself, as the HTML pages do with their own content security policy, wins.
 */
function setHeaders(c: Context<Env>, requestId: string, https: boolean): void {
  const outgoing = c.env?.outgoing as ServerResponse | undefined
  const set = (name: string, value: string) => (outgoing ? outgoing.setHeader(name, value) : c.header(name, value))
  set('x-request-id', requestId)
  set('x-content-type-options', 'nosniff')
  set('referrer-policy', 'no-referrer')
  set('content-security-policy', "frame-ancestors 'none'")
  set('x-frame-options', 'DENY')
  if (https) set('strict-transport-security', STRICT_TRANSPORT)
}
