import type { Context, MiddlewareHandler } from 'hono'
import { findCookie } from '../../domain/accounts/browser-session.ts'
import { AppError } from '../../lib/errors.ts'
import type { Env } from '../env.ts'

const SAFE_METHODS = new Set(['GET', 'HEAD', 'OPTIONS'])
const ALLOWED_METHODS = 'GET, HEAD, POST, PUT, PATCH, DELETE'
const ALLOWED_HEADERS = 'authorization, content-type, idempotency-key, if-match, last-event-id, traceparent, x-lobu-org'
const EXPOSED_HEADERS = 'etag, retry-after, x-request-id'
const BEARER = /^Bearer +\S/i
const PREFLIGHT_SECONDS = 600

export interface CrossOriginDeps {
  /** Where the gateway itself is. */
  publicUrl: string
  /** Further origins that count as our own. */
  trustedOrigins: readonly string[]
  sessionCookie: string
}

/**
 * What pages of other origins may do. Those that settings trust get CORS; all others get none, so that browsers keep our
 * answers from them. A change with a person's cookie must come from our own pages or trusted ones: browsers say where a
 * request was made (`Sec-Fetch-Site`, `Origin`), and what says nothing is refused. A request with a bearer token
 * was not made by a browser on its own, and passes; `Basic` a browser adds by itself for a proxy that asked. https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html
 */
export function crossOrigin(deps: CrossOriginDeps): MiddlewareHandler<Env> {
  const own = new Set([new URL(deps.publicUrl).origin, ...deps.trustedOrigins])
  const trusted = new Set(deps.trustedOrigins)
  return async (c, next) => {
    const origin = c.req.header('origin')
    if (trusted.size > 0) setHeader(c, 'vary', 'Origin')
    if (origin !== undefined && trusted.has(origin)) {
      allow(c, origin)
      if (isPreflight(c)) return c.body(null, 204)
    }
    if (isCookieChange(c, deps.sessionCookie) && !isFromOwnPage(c, origin, own)) {
      throw new AppError('cross_origin', 'A page of another origin may not do this; send an API key instead')
    }
    await next()
  }
}

function isPreflight(c: Context<Env>): boolean {
  return c.req.method === 'OPTIONS' && c.req.header('access-control-request-method') !== undefined
}

function isCookieChange(c: Context<Env>, cookie: string): boolean {
  if (SAFE_METHODS.has(c.req.method) || BEARER.test(c.req.header('authorization') ?? '')) return false
  return findCookie(c.req.header('cookie') ?? '', cookie) !== undefined
}

/** Browsers leave the first header out on plain http, and write `null` into the second for forms of ours. */
function isFromOwnPage(c: Context<Env>, origin: string | undefined, own: ReadonlySet<string>): boolean {
  const site = c.req.header('sec-fetch-site')
  if (site === 'same-origin') return origin === undefined || origin === 'null' || own.has(origin)
  return origin !== undefined && own.has(origin)
}

function allow(c: Context<Env>, origin: string): void {
  setHeader(c, 'access-control-allow-origin', origin)
  setHeader(c, 'access-control-allow-credentials', 'true')
  setHeader(c, 'access-control-expose-headers', EXPOSED_HEADERS)
  if (!isPreflight(c)) return
  setHeader(c, 'access-control-allow-methods', ALLOWED_METHODS)
  setHeader(c, 'access-control-allow-headers', ALLOWED_HEADERS)
  setHeader(c, 'access-control-max-age', String(PREFLIGHT_SECONDS))
}

/** Event streams send it as well, and send it with their head. */
function setHeader(c: Context<Env>, name: string, value: string): void {
  c.get('commonHeaders')[name] = value
}
