import { expect } from 'vitest'
import { makePkce, type SignedIn, signInBySql } from '../../../tests/support/oauth.ts'
import { createScene, recordSignals, type Scene } from '../../../tests/support/scene.ts'
import type { World } from '../../../tests/support/world.ts'
import { createAccessTokens } from '../accounts/access-token.ts'
import { createAuthenticator } from '../accounts/authenticate.ts'
import { createSessionTokens } from '../accounts/session-token.ts'
import { createBetterAuth } from './better-auth.ts'
import { createOAuthServer, type Onward } from './oauth-server.ts'

export const PUBLIC_URL = 'http://localhost:8787'
export const SECRET = 'a secret of the tests that is long enough'
export const DEVICE_GRANT = 'urn:ietf:params:oauth:grant-type:device_code'
export const REDIRECT = 'http://127.0.0.1:49152/callback'

export interface Tokens {
  access_token: string
  refresh_token: string
  id_token: string
  scope: string
  expires_in: number
}

/** One replica's OAuth server, and a person who is a member of an organization and signed in. */
export async function createStage(world: World, role = 'member') {
  const { sql, orm } = await world.replica()
  const scene = await createScene(world, sql)
  const person = await signInBySql(sql, { secret: SECRET })
  await join(scene, person, role)
  const signals = recordSignals()
  const authOn = (on: typeof orm) => {
    const made = createBetterAuth({ orm: on }, { publicUrl: PUBLIC_URL, secret: SECRET })
    return () => made
  }
  const auth = authOn(orm)
  const oauth = createOAuthServer(
    { handle: (request) => auth().handler(request), sql, signals },
    { publicUrl: PUBLIC_URL },
  )
  // An address of its own: the limits of the endpoints are shared by the whole file's database.
  const bytes = Array.from({ length: 3 }, () => Math.floor(Math.random() * 255))
  const caller = { ip: `10.${bytes.join('.')}`, userAgent: 'test', requestId: 'req_test' }
  const browser = { ...caller, cookie: person.cookie }
  const accessTokens = createAccessTokens({ sql })
  const authenticator = createAuthenticator({ sql, tokens: createSessionTokens(SECRET), accessTokens })
  const reader = { ...person, sessionId: `session-${person.userId}`, name: 'Ada' }
  const stage = {
    ...{ sql, authOn, reader, scene, person, signals, oauth, caller, browser, accessTokens },
    actorOf: (token: string, organizationSlug?: string) =>
      authenticator.authenticate({ authorization: `Bearer ${token}`, organizationSlug }),
    async token(fields: Record<string, string>) {
      const answer = await oauth.token(new URLSearchParams({ client_id: 'lobu-cli', ...fields }), caller)
      return { status: answer.status, body: (await answer.json()) as Tokens & { error: string } }
    },
    async code(over: Record<string, string> = {}) {
      const { verifier, challenge } = makePkce()
      const query = authorizeQuery({ code_challenge: challenge, ...over })
      const consent = placeOf(await oauth.authorize(query, browser))
      expect(consent.pathname).toBe('/consent')
      const back = placeOf(
        await oauth.decide({ accept: true, signedQuery: consent.search.slice(1), person: reader }, browser),
      )
      return { verifier, back, code: back.searchParams.get('code') ?? '' }
    },
    async tokens(over: Record<string, string> = {}) {
      const { code, verifier } = await stage.code(over)
      const { client_id = 'lobu-cli', redirect_uri = REDIRECT } = over
      const { status, body } = await stage.token({ ...exchange(code, verifier), client_id, redirect_uri })
      expect(status, JSON.stringify(body)).toBe(200)
      return body
    },
    async signOut() {
      const headers = { cookie: person.cookie, origin: PUBLIC_URL, 'content-type': 'application/json' }
      await auth().handler(new Request(`${PUBLIC_URL}/api/auth/sign-out`, { method: 'POST', headers, body: '{}' }))
    },
    async register(metadata: { redirect_uris: string[] }) {
      const answer = await oauth.register({ client_name: 'Test', ...metadata }, caller)
      const { client_id } = (await answer.json()) as { client_id: string }
      expect(answer.status).toBe(201)
      return client_id
    },
    refresh: (refresh_token: string) => stage.token({ grant_type: 'refresh_token', refresh_token }),
  }
  return stage
}

export async function join({ sql, organizationId }: Scene, { userId }: SignedIn, role: string) {
  await sql`insert into members (organization_id, user_id, role) values (${organizationId}, ${userId}, ${role})`
}

export function authorizeQuery(over: Record<string, string> = {}) {
  return new URLSearchParams({
    ...{ response_type: 'code', client_id: 'lobu-cli', redirect_uri: REDIRECT, state: 'xyz' },
    ...{ code_challenge: makePkce().challenge, code_challenge_method: 'S256' },
    ...over,
  })
}

export const exchange = (code: string, code_verifier: string) => ({
  ...{ grant_type: 'authorization_code', code, code_verifier },
  redirect_uri: REDIRECT,
})

export function placeOf(onward: Onward): URL {
  if ('refused' in onward) throw new Error(onward.refused)
  return new URL(onward.location, PUBLIC_URL)
}

export type Stage = Awaited<ReturnType<typeof createStage>>
