import type { Context } from 'hono'
import { routePath } from 'hono/route'
import type { Span, Tracer } from '../telemetry/tracer.ts'
import type { Env } from './env.ts'
import { contextIds, statusOf } from './request-log.ts'

/** The span of a request, a part of the caller's trace when it sent one; undefined where nothing is traced. */
export function traceRequest(
  c: Context<Env>,
  tracer: Tracer,
  { parent, requestId }: { parent: string | undefined; requestId: string },
): Span | undefined {
  if (!tracer.enabled) return undefined
  const { method } = c.req
  const attributes = { 'http.request.method': method, 'lobu.request.id': requestId }
  return tracer.start(method, { parent, kind: 'server', attributes })
}

/**
 * Ends it when the handler is done; that of an event stream when it is open. It has the template of the path and never the
 * path itself, which may hold what is meant for one person's eyes.
 */
export function endSpan(c: Context<Env>, span: Span): void {
  const route = routePath(c)
  const status = statusOf(c)
  const ids = contextIds(c)
  span.rename(`${c.req.method} ${route}`)
  span.set({
    'http.route': route,
    'http.response.status_code': status,
    'lobu.organization.id': ids.organizationId,
    'lobu.conversation.id': ids.conversationId,
    'lobu.run.id': ids.runId,
  })
  if (status >= 500) span.fail()
  span.end()
}
