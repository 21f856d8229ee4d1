import type { Context, MiddlewareHandler } from 'hono'
import type { Sql } from '../../db/client.ts'
import type { AccessTokens } from '../../domain/accounts/access-token.ts'
import { readUserInfo } from '../../domain/accounts/userinfo.ts'
import { ClientMetadata } from '../../domain/sign-in/oauth-clients.ts'
import type { OAuthServer, Onward } from '../../domain/sign-in/oauth-server.ts'
import { AppError } from '../../lib/errors.ts'
import { jsonBody } from '../body.ts'
import type { Env } from '../env.ts'
import { authorizationServerMetadata, protectedResourceMetadata, RESOURCE_PATH } from '../oauth/metadata.ts'
import { messagePage } from '../oauth/pages.ts'
import { browserOf, programOf, readForm } from '../oauth/requests.ts'
import { PAGE_POLICY } from '../page/assets.ts'
import { createRouter, type Router } from '../router.ts'

const METADATA_BYTES_MAX = 16_384
/** Clients ask at each start; what they learn changes with a release. */
const METADATA_CACHE = 'public, max-age=300'

export interface OAuthRoutesDeps {
  oauth: OAuthServer
  accessTokens: AccessTokens
  sql: Sql
  publicUrl: string
}

/**
 * The OAuth 2.1 server for command-line and MCP clients. Every endpoint answers under better-auth's own path too, so that
 * there is no way around what these do.
 */
export function oauthRoutes(deps: OAuthRoutesDeps): Router {
  const { oauth, publicUrl } = deps
  const router = createRouter()

  const metadata = authorizationServerMetadata(publicUrl)
  for (const name of ['oauth-authorization-server', 'openid-configuration']) {
    for (const path of [`/.well-known/${name}`, `/.well-known/${name}/api/auth`, `/api/auth/.well-known/${name}`]) {
      router.use(path, anyOrigin)
      router.get(path, (c) => c.json(metadata, 200, { 'cache-control': METADATA_CACHE }))
    }
  }
  router.use('/.well-known/oauth-protected-resource/*', anyOrigin)
  router.get('/.well-known/oauth-protected-resource/*', (c) => {
    const path = c.req.path.slice('/.well-known/oauth-protected-resource'.length).replace(/\/$/, '')
    if (path !== '' && !RESOURCE_PATH.test(path)) return c.notFound()
    return c.json(protectedResourceMetadata(publicUrl, path), 200, { 'cache-control': METADATA_CACHE })
  })

  for (const path of ['/oauth/authorize', '/api/auth/oauth2/authorize']) {
    router.get(path, async (c) => go(c, await oauth.authorize(new URL(c.req.url).searchParams, browserOf(c))))
  }
  const own = { token: 'oauth2/token', revoke: 'oauth2/revoke', device: 'device/code' } as const
  for (const name of ['token', 'revoke', 'device'] as const) {
    for (const path of [`/oauth/${name}`, `/api/auth/${own[name]}`]) {
      router.use(path, anyOrigin)
      router.post(path, async (c) => pass(c, await oauth[name](await readForm(c), programOf(c))))
    }
  }
  for (const path of ['/oauth/register', '/api/auth/oauth2/register']) {
    router.use(path, anyOrigin)
    router.post(path, jsonBody({ bytesMax: METADATA_BYTES_MAX }), async (c) => {
      const parsed = ClientMetadata.safeParse(await c.req.json().catch(() => null))
      if (!parsed.success) return c.json(invalidMetadata(parsed.error.issues[0]), 400)
      return pass(c, await oauth.register(parsed.data, programOf(c)))
    })
  }
  router.use('/oauth/userinfo', anyOrigin)
  router.on(['GET', 'POST'], '/oauth/userinfo', (c) => userInfo(c, deps))
  return router
}

async function userInfo(c: Context<Env>, { accessTokens, sql }: OAuthRoutesDeps) {
  const token = /^Bearer +(\S+)$/i.exec(c.req.header('authorization') ?? '')?.[1]
  const grant = token ? await accessTokens.find(token) : null
  const info = grant && (await readUserInfo(sql, grant))
  if (!info) throw new AppError('unauthenticated', 'Send "Authorization: Bearer <OAuth access token>"')
  return c.json(info, 200, { 'cache-control': 'no-store' })
}

/** Sends the browser on, or tells the person why not: nobody is redirected to a place that was not registered. */
export function go(c: Context<Env>, onward: Onward) {
  if ('location' in onward) return c.redirect(onward.location, c.req.method === 'POST' ? 303 : 302)
  const title = 'This did not work'
  const advice = 'Go back to the program that sent you here and start again.'
  return c.html(messagePage(title, `The request was refused: ${onward.refused}.`, advice), 400, {
    'content-security-policy': PAGE_POLICY,
    'cache-control': 'no-store',
  })
}

/** better-auth's own answer, with the header that clients wait by and without what is meant for browsers. */
async function pass(c: Context<Env>, answer: Response): Promise<Response> {
  const retryAfter = answer.headers.get('x-retry-after')
  if (retryAfter) c.header('retry-after', retryAfter)
  c.header('cache-control', 'no-store')
  return c.body(await answer.text(), answer.status as 200, {
    'content-type': answer.headers.get('content-type') ?? 'application/json',
  })
}

function invalidMetadata(issue: { path: PropertyKey[]; message: string } | undefined) {
  const field = issue?.path.map(String).join('.') ?? ''
  const error = field.startsWith('redirect_uris') ? 'invalid_redirect_uri' : 'invalid_client_metadata'
  return { error, error_description: issue ? `${field}: ${issue.message}` : 'Bad metadata' }
}

/**
 * Clients that run in a browser may call these from any origin: nothing here acts by a cookie.
 * https://fetch.spec.whatwg.org/#http-cors-protocol
 */
const anyOrigin: MiddlewareHandler<Env> = async (c, next) => {
  c.header('access-control-allow-origin', '*')
  if (c.req.method !== 'OPTIONS') return next()
  return c.body(null, 204, {
    'access-control-allow-methods': 'GET, POST',
    'access-control-allow-headers': 'authorization, content-type, mcp-protocol-version',
    'access-control-max-age': '600',
  })
}
