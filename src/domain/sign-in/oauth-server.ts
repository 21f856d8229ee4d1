import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { sleep } from '../../lib/sleep.ts'
import { enforceEverywhere } from '../accounts/access.ts'
import { DEFAULT_SCOPE, OAUTH_SCOPES } from '../accounts/scopes.ts'
import { revokeKeysOfProgram } from '../keys/maker.ts'
import type { Signals } from '../signals.ts'
import { type AppActor, recordApp } from './app-audit.ts'
import { SIGN_IN_PATH } from './better-auth.ts'
import { CLIENT_ADDRESS_HEADER, REQUEST_ID_HEADER } from './hooks.ts'
import { type ClientMetadata, countClients, findClient, toRegistration } from './oauth-clients.ts'
import {
  isOnRecord,
  isRotationUnderWay,
  nameDeviceFamily,
  ownerIfUsedBefore,
  revokeToken,
  wasExchanged,
} from './oauth-tokens.ts'
import type { SignedInPerson } from './reader.ts'

/** Programs that registered themselves; a flood of them ends here. Those that nobody let in are removed after a week. */
const CLIENTS_MAX = 10_000
/** How often, and how many times, a refresh that lost a race asks for what the winner got: two seconds in all. */
const ROTATION_POLL_MS = 50
const ROTATION_POLLS_MAX = 40

export interface OAuthServerDeps {
  /** better-auth, behind everything that stands before it for all its routes. */
  handle(request: Request): Promise<Response>
  sql: Sql
  signals: Signals
}

/** Who sends a request, as better-auth needs to know it. */
export interface Caller {
  ip: string | null
  userAgent: string | undefined
  requestId: string
  /** Only where a browser acts for a person. */
  cookie?: string | undefined
}

/** Where the browser goes next; or a sentence for the person, when the request cannot be trusted to name a place. */
export type Onward = { location: string } | { refused: string }

export interface OAuthServer {
  /** The authorization endpoint: on to sign-in, to the consent page, or back to the client. */
  authorize(query: URLSearchParams, caller: Caller): Promise<Onward>
  /** What the person decided on the consent page. `signedQuery` is the page's own query, which better-auth signed. */
  decide(args: { accept: boolean; signedQuery: string; person: SignedInPerson }, caller: Caller): Promise<Onward>
  token(form: URLSearchParams, caller: Caller): Promise<Response>
  revoke(form: URLSearchParams): Promise<Response>
  device(form: URLSearchParams, caller: Caller): Promise<Response>
  register(metadata: ClientMetadata, caller: Caller): Promise<Response>
}

/**
 * Stands before better-auth's OAuth routes. What it adds: tokens are always looked up and never verified alone (so the
 * `resource` of RFC 8707 is checked here and goes no further: there is one resource, this gateway); a client that asks for
 * no scope gets little; programs on the person's own machine are asked about each time; a refresh that loses a race gets
 * the winner's tokens; and every replica hears when something was taken back.
 */
export function createOAuthServer(deps: OAuthServerDeps, { publicUrl }: { publicUrl: string }): OAuthServer {
  const { sql, signals } = deps

  function send(path: string, caller: Caller, body?: URLSearchParams | object): Promise<Response> {
    const headers = new Headers({ origin: publicUrl, accept: body ? 'application/json' : 'text/html' })
    headers.set(REQUEST_ID_HEADER, caller.requestId)
    if (caller.ip) headers.set(CLIENT_ADDRESS_HEADER, caller.ip)
    if (caller.userAgent) headers.set('user-agent', caller.userAgent)
    if (caller.cookie) headers.set('cookie', caller.cookie)
    const url = `${publicUrl}${SIGN_IN_PATH}${path}`
    if (!body) return deps.handle(new Request(url, { headers }))
    const isForm = body instanceof URLSearchParams
    headers.set('content-type', isForm ? 'application/x-www-form-urlencoded' : 'application/json')
    const text = isForm ? body.toString() : JSON.stringify(body)
    return deps.handle(new Request(url, { method: 'POST', headers, body: text }))
  }

  /** Also where the person decided: better-auth speaks of the same places then. */
  function onward(location: string, query: URLSearchParams): Onward {
    const url = new URL(location, publicUrl)
    if (url.origin !== new URL(publicUrl).origin) return { location }
    if (!url.pathname.endsWith('/sign-in')) return { location }
    // Its own errors go to the same page, but without the signature of a question that a person is to answer.
    if (url.searchParams.has('sig')) return { location: signInFor(query) }
    return { refused: url.searchParams.get('error_description') ?? url.searchParams.get('error') ?? 'invalid request' }
  }

  return {
    async authorize(given, caller) {
      const fault = faultOf(given, publicUrl)
      if (fault) return { refused: fault.error_description }
      const query = askedOfPerson(given)
      const answer = await send(`/oauth2/authorize?${query}`, caller)
      const location = answer.headers.get('location')
      return location ? onward(location, query) : { refused: await sentenceOf(answer) }
    },

    async decide({ accept, signedQuery, person }, caller) {
      const answer = await send('/oauth2/consent', caller, { accept, oauth_query: signedQuery })
      if (!answer.ok) return { refused: await sentenceOf(answer) }
      const { url } = (await answer.json()) as { url: string }
      const query = withoutSignature(new URLSearchParams(signedQuery))
      if (accept && new URL(url, publicUrl).searchParams.has('code')) {
        const details = { scopes: query.get('scope') }
        const clientId = query.get('client_id') ?? ''
        const actor = actorOfPage(person, caller)
        await inTransaction(sql, (tx) => recordApp(tx, actor, { action: 'app.approved', clientId, details }))
      }
      return onward(url, query)
    },

    async token(form, caller) {
      const fault = faultOf(form, publicUrl)
      if (fault) return refuse(fault)
      const asked = without(form, 'resource')
      if (asked.get('grant_type') === 'refresh_token') return refresh(asked, caller)
      // A code that comes twice ends what it was exchanged for.
      const isReplay = await wasExchanged(sql, asked.get('code') ?? '')
      const answer = await send('/oauth2/token', caller, asked)
      if (isReplay && !answer.ok) await enforceEverywhere(signals)
      if (asked.get('grant_type') !== DEVICE_GRANT) return answer
      const { refresh_token } = answer.ok ? ((await answer.clone().json()) as { refresh_token?: string }) : {}
      if (refresh_token) await nameDeviceFamily(sql, refresh_token)
      return answer
    },

    async revoke(form) {
      const token = form.get('token') ?? ''
      const clientId = form.get('client_id') ?? ''
      if (token === '') return refuse({ error: 'invalid_request', error_description: 'token is required' })
      const client = await findClient(sql, clientId)
      if (!client)
        return refuse({ error: 'invalid_client', error_description: 'client_id is unknown' }, { status: 401 })
      if (await revokeToken(sql, { token, clientId })) await enforceEverywhere(signals)
      // A token that is none is as good as revoked (RFC 7009, 2.2).
      return new Response('{}', { headers: { 'content-type': 'application/json' } })
    },

    async device(form, caller) {
      const fault = faultOf(form, publicUrl) ?? faultOfScope(form)
      if (fault) return refuse(fault)
      // Whose code it is, is decided by who opens the page.
      const asked = withScope(without(form, 'resource', 'user_id'))
      return send('/device/code', caller, asked)
    },

    async register(metadata, caller) {
      if ((await countClients(sql)) >= CLIENTS_MAX) {
        const error_description = 'This gateway knows as many clients as it may; try again later'
        return refuse({ error: 'temporarily_unavailable', error_description }, { status: 503, retryAfter: '3600' })
      }
      return send('/oauth2/register', caller, toRegistration(metadata))
    },
  }

  async function refresh(form: URLSearchParams, caller: Caller): Promise<Response> {
    const refreshToken = form.get('refresh_token') ?? ''
    const clientId = form.get('client_id') ?? ''
    const userId = await ownerIfUsedBefore(sql, { refreshToken, clientId })
    if (userId !== null) {
      await inTransaction(sql, async (tx) => {
        await revokeToken(tx, { token: refreshToken, clientId })
        // Whoever has stolen a token may have made themselves a key with it.
        await revokeKeysOfProgram(tx, { clientId, userId })
        const actor: AppActor = { kind: 'client', credentialId: clientId, userId, origin: originOf(caller) }
        await recordApp(tx, actor, { action: 'app.token_reused', clientId })
      })
      await enforceEverywhere(signals)
      return refuse({ error: 'invalid_grant', error_description: 'This refresh token was used before' })
    }
    const answer = await send('/oauth2/token', caller, form)
    if (answer.ok) return afterRotation(answer, { refreshToken, clientId })
    if (answer.status === 429 || !(await awaitWinner(refreshToken))) return answer
    return send('/oauth2/token', caller, form)
  }

  /**
   * A family that was ended while one of it was being rotated would live on in the new one: better-auth marks the old
   * token and stores the new one in two steps. Whoever ends a family after this look finds the new one too.
   */
  async function afterRotation(answer: Response, args: { refreshToken: string; clientId: string }): Promise<Response> {
    if (await isOnRecord(sql, args.refreshToken)) return answer
    const { refresh_token = '' } = (await answer.json()) as { refresh_token?: string }
    await revokeToken(sql, { token: refresh_token, clientId: args.clientId })
    await enforceEverywhere(signals)
    return refuse({ error: 'invalid_grant', error_description: 'This refresh token was taken back' })
  }

  /** True when the token was rotated a moment ago by a request whose outcome can be had by asking again. */
  async function awaitWinner(refreshToken: string): Promise<boolean> {
    for (let polls = 0; polls < ROTATION_POLLS_MAX; polls++) {
      const state = await isRotationUnderWay(sql, refreshToken)
      if (state !== 'waiting') return state === 'done'
      await sleep(ROTATION_POLL_MS)
    }
    return false
  }
}

/** A person who decides on one of our pages. */
export function actorOfPage({ userId, sessionId }: SignedInPerson, caller: Caller): AppActor {
  return { kind: 'user', credentialId: sessionId, userId, origin: originOf(caller) }
}

function originOf({ ip, userAgent, requestId }: Caller) {
  return { ip, userAgent: userAgent ?? null, requestId }
}

const DEVICE_GRANT = 'urn:ietf:params:oauth:grant-type:device_code'

interface Fault {
  error: string
  error_description: string
}

/** As RFC 6749 wants errors of the token endpoint; browsers may read it, as they may read all of these answers. */
function refuse(fault: Fault, { status = 400, retryAfter }: { status?: number; retryAfter?: string } = {}): Response {
  const wait = retryAfter === undefined ? {} : { 'x-retry-after': retryAfter }
  return Response.json(fault, { status, headers: { 'cache-control': 'no-store', ...wait } })
}

/** No parameter may come twice (RFC 6749, 3.1), but for `resource`, and that must name this gateway (RFC 8707). */
function faultOf(params: URLSearchParams, publicUrl: string): Fault | null {
  const repeated = [...new Set(params.keys())].find((key) => key !== 'resource' && params.getAll(key).length > 1)
  if (repeated) return { error: 'invalid_request', error_description: 'A parameter was sent twice' }
  const foreign = params.getAll('resource').some((resource) => !isOurs(resource, publicUrl))
  return foreign
    ? { error: 'invalid_target', error_description: 'This gateway gives no tokens for that resource' }
    : null
}

function isOurs(resource: string, publicUrl: string): boolean {
  return URL.canParse(resource) && new URL(resource).origin === new URL(publicUrl).origin && !resource.includes('#')
}

function faultOfScope(params: URLSearchParams): Fault | null {
  const scopes = (params.get('scope') ?? '').split(/\s+/).filter(Boolean)
  const known: readonly string[] = OAUTH_SCOPES
  if (scopes.every((scope) => known.includes(scope))) return null
  return { error: 'invalid_scope', error_description: 'A scope is unknown; see scopes_supported' }
}

function without(params: URLSearchParams, ...names: string[]): URLSearchParams {
  const rest = new URLSearchParams(params)
  for (const name of names) rest.delete(name)
  return rest
}

function withScope(params: URLSearchParams): URLSearchParams {
  if (!params.get('scope')?.trim()) params.set('scope', DEFAULT_SCOPE)
  return params
}

/**
 * What better-auth is asked. Parameters that would change the kind of token or the claims go no further. Anybody on the
 * person's machine can take the name and the loopback address of such a client, so an earlier consent counts for https
 * redirects alone (RFC 8252, 8.6); we have no pages to choose an account or make one on the way.
 */
function askedOfPerson(given: URLSearchParams): URLSearchParams {
  const query = withScope(without(given, 'resource', 'claims', 'dpop_jkt', 'prompt'))
  const prompts = new Set((given.get('prompt') ?? '').split(' ').filter((prompt) => PROMPTS.includes(prompt)))
  if (!query.get('redirect_uri')?.startsWith('https://')) {
    prompts.delete('none')
    prompts.add('consent')
  }
  if (prompts.size > 0) query.set('prompt', [...prompts].join(' '))
  return query
}

const PROMPTS = ['none', 'login', 'consent']

/** The sign-in page, which leads back here. The wish for a fresh sign-in is met by having been there. */
function signInFor(query: URLSearchParams): string {
  const back = without(query, 'max_age', 'prompt')
  const prompt = (query.get('prompt') ?? '').split(' ').filter((word) => word !== 'login')
  if (prompt.join('') !== '') back.set('prompt', prompt.join(' '))
  return `/sign-in?next=${encodeURIComponent(`/oauth/authorize?${back}`)}`
}

function withoutSignature(signed: URLSearchParams): URLSearchParams {
  return without(signed, 'sig', 'exp', 'ba_iat', 'ba_pl', 'ba_param')
}

async function sentenceOf(answer: Response): Promise<string> {
  if (answer.status === 429) return 'too many requests; wait a minute'
  const body = (await answer.json().catch(() => null)) as { error_description?: unknown } | null
  return typeof body?.error_description === 'string' ? body.error_description : 'the request is no longer valid'
}
