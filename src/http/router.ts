import { OpenAPIHono } from '@hono/zod-openapi'
import type { Context } from 'hono'
import { METHODS } from 'hono/router'
import { getPath } from 'hono/utils/url'
import { AppError } from '../lib/errors.ts'
import { jsonBody } from './body.ts'
import type { Env } from './env.ts'
import { answerError, handleError, refuseInvalid } from './errors.ts'
import { type ContextDeps, context } from './middleware/context.ts'

export type { Env } from './env.ts'
export { errors } from './errors.ts'

export type Router = OpenAPIHono<Env>

/** Published clients put this before the agent API, the chat webhooks and the OpenAPI document. */
const PREFIX = '/lobu'
const AGENT_API = '/api/v1/'
const PREFIXED = /^\/lobu\/api\/(v1|docs)(\/|$)/

/**
 * A router for one resource. Validation failures become `invalid_request`, and a route whose `createRoute` declares a
 * JSON body reads it within bounds (`body.ts`). A route that takes JSON or multipart declares both, marks the body as not
 * required, and gives multipart a plain OpenAPI schema: with a zod one the library would read all files into memory.
 */
export function createRouter(): Router {
  const router = new OpenAPIHono<Env>({ defaultHook: refuseInvalid })
  const { openapi } = router
  const bounded: typeof openapi = ({ middleware = [], ...route }, handler, hook) => {
    const mediaTypes = Object.keys(route.request?.body?.content ?? {})
    const readers = mediaTypes.includes('application/json') ? [jsonBody({ mediaTypes })] : []
    return openapi({ ...route, middleware: [middleware, readers].flat() } as never, handler as never, hook as never)
  }
  router.openapi = bounded
  return router
}

/**
 * The application that all routers are mounted on: request context, access log, JSON for every error and for unknown
 * paths and methods. `/lobu/api/v1/…` and `/lobu/api/docs…` are routed as the same paths without the prefix.
 */
export function createHttpApp(deps: ContextDeps): Router {
  const app = new OpenAPIHono<Env>({ defaultHook: refuseInvalid, getPath: routedPath })
  app.use(context(deps))
  app.onError(handleError)
  app.notFound((c) => answerError(c, refusal(app, c)))
  return app
}

function routedPath(request: Request): string {
  const path = getPath(request)
  return PREFIXED.test(path) ? path.slice(PREFIX.length) : path
}

/** 405 when another method would have found a route, else 404. */
function refusal(app: Router, c: Context<Env>): AppError {
  const allowed = METHODS.map((method) => method.toUpperCase()).filter((method) => isRouted(app, method, c.req.path))
  if (allowed.length === 0 || allowed.includes(c.req.method)) return new AppError('not_found', 'No such path')
  if (allowed.includes('GET')) allowed.push('HEAD')
  c.header('allow', allowed.join(', '))
  return new AppError('method_not_allowed', `This path takes ${allowed.join(', ')}, not ${c.req.method}`)
}

/**
 * Middleware is registered for all methods and does not make a path exist; nor do the organization routes, whose first
 * parameter matches `v1`, make one in the agent API.
 */
function isRouted(app: Router, method: string, path: string): boolean {
  const home = path.startsWith(AGENT_API) ? AGENT_API : '/'
  const matches = app.router.match(method, path)[0]
  return matches.some(([[, route]]) => route.method === method && route.path.startsWith(home))
}
