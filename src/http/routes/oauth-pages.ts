import type { Context } from 'hono'
import type { Sql } from '../../db/client.ts'
import { decideDeviceRequest, openDeviceRequest } from '../../domain/sign-in/device-codes.ts'
import { findClient } from '../../domain/sign-in/oauth-clients.ts'
import { actorOfPage, type OAuthServer } from '../../domain/sign-in/oauth-server.ts'
import type { SignedInPerson } from '../../domain/sign-in/reader.ts'
import type { Env } from '../env.ts'
import { consentPage, deviceCodePage, devicePage, messagePage } from '../oauth/pages.ts'
import { browserOf, readForm } from '../oauth/requests.ts'
import { createAssets, PAGE_FOLDER, PAGE_POLICY } from '../page/assets.ts'
import { createRouter, type Router } from '../router.ts'
import { go } from './oauth.ts'

export interface OAuthPagesDeps {
  oauth: OAuthServer
  sql: Sql
  /** Who is signed in with the browser that sends this header. */
  findReader(cookie: string | undefined): Promise<SignedInPerson | null>
}

/** Codes that people type wrong, and codes that somebody else's page opened first, get the same answer. */
const UNKNOWN_CODE = 'This code is unknown, has expired, or was used already. Codes last ten minutes.'
const TOO_MANY = 'You have tried too many codes. Wait ten minutes.'

/**
 * The pages on which a signed-in person lets a device or a program in. They work without JavaScript. That their forms are
 * sent by them and by no other page is seen to by `middleware/cross-origin.ts`.
 */
export function oauthPages(deps: OAuthPagesDeps): Router {
  const { oauth, sql, findReader } = deps
  const assets = createAssets({ folder: PAGE_FOLDER, names: ['oauth.css'] })
  const router = createRouter()
  const readerOf = (c: Context<Env>) => findReader(c.req.header('cookie'))
  router.get('/oauth.css', (c) => assets.send(c, 'oauth.css'))

  router.get('/device', async (c) => {
    const reader = await readerOf(c)
    if (!reader) return toSignIn(c)
    const typed = c.req.query('user_code')
    if (!typed) return show(c, deviceCodePage(reader))
    const request = await openDeviceRequest(sql, { typed, userId: reader.userId })
    if (request === 'too many tries') return show(c, deviceCodePage(reader, { fault: TOO_MANY }), { status: 429 })
    if (!request) return show(c, deviceCodePage(reader, { fault: UNKNOWN_CODE }), { status: 400 })
    return show(c, devicePage(reader, { ...request, clientName: request.client.name }))
  })

  router.post('/device', async (c) => {
    const reader = await readerOf(c)
    const form = await readForm(c)
    if (!reader) return c.redirect('/device', 303)
    const accept = form.get('decision') === 'approve'
    const userCode = form.get('user_code') ?? ''
    const actor = actorOfPage(reader, browserOf(c))
    const decided = await decideDeviceRequest(sql, { userCode, accept, actor })
    if (!decided) return show(c, deviceCodePage(reader, { fault: UNKNOWN_CODE }), { status: 400 })
    if (!accept) return show(c, messagePage('Denied', 'The device was not let in. You can close this page.'))
    return show(c, messagePage('The device is connected', 'You can close this page and go back to it.'))
  })

  router.get('/consent', async (c) => {
    const reader = await readerOf(c)
    if (!reader) return toSignIn(c)
    const url = new URL(c.req.url)
    const client = await findClient(sql, url.searchParams.get('client_id') ?? '')
    const redirectsTo = describeRedirect(url.searchParams.get('redirect_uri') ?? '')
    if (!client || !redirectsTo) return go(c, { refused: 'the program is unknown' })
    const scopes = (url.searchParams.get('scope') ?? '').split(' ').filter(Boolean)
    const signedQuery = url.search.slice(1)
    const shown = consentPage(reader, { clientName: client.name, redirectsTo: redirectsTo.shown, scopes, signedQuery })
    return show(c, shown, { formsTo: redirectsTo.source })
  })

  router.post('/consent', async (c) => {
    const person = await readerOf(c)
    const form = await readForm(c)
    if (!person) return go(c, { refused: 'you are not signed in any more' })
    const accept = form.get('decision') === 'approve'
    const signedQuery = form.get('oauth_query') ?? ''
    return go(c, await oauth.decide({ accept, signedQuery, person }, browserOf(c)))
  })
  return router
}

/** The sign-in page leads back to a path of ours, and to nothing else. */
function toSignIn(c: Context<Env>) {
  const { pathname, search } = new URL(c.req.url)
  return c.redirect(`/sign-in?next=${encodeURIComponent(pathname + search)}`, 302)
}

/**
 * `Origin` is what forms prove by that they are ours; under the policy that is the default elsewhere browsers would send
 * "null". Browsers hold a redirect after a form against `form-action`, so the client's place is named there.
 */
function show(
  c: Context<Env>,
  page: ReturnType<typeof messagePage>,
  options: { status?: 400 | 429; formsTo?: string } = {},
) {
  const { status = 200, formsTo = '' } = options
  return c.html(page, status, {
    'content-security-policy': PAGE_POLICY.replace("form-action 'self'", `form-action 'self' ${formsTo}`.trim()),
    'referrer-policy': 'same-origin',
    'cache-control': 'no-store',
  })
}

/** Where the person will be sent, in words, and as a source of a content security policy; null for what is no URI. */
function describeRedirect(uri: string): { shown: string; source: string } | null {
  if (!URL.canParse(uri)) return null
  const { protocol, origin, host, hostname } = new URL(uri)
  const isLocal = /^(localhost|127\.0\.0\.1|\[::1\])$/.test(hostname)
  if (protocol === 'https:' || protocol === 'http:') {
    return { shown: isLocal ? `a program on this computer (${host})` : host, source: origin }
  }
  return /^[a-z][a-z0-9+.-]*:$/.test(protocol)
    ? { shown: `an app on this device (${protocol})`, source: protocol }
    : null
}
