import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import { sha256 } from '../../lib/ids.ts'
import { createRecall } from '../../lib/recall.ts'
import { ACCESS_CACHE_MS } from './access.ts'
import { type AccessTokens, actorOfGrant, looksLikeAccessToken } from './access-token.ts'
import type { Actor } from './actor.ts'
import { findApiKey, findApiKeyById, looksLikeApiKey } from './api-keys.ts'
import { actorOfPerson, type PersonLookup } from './browser-session.ts'
import { findMember } from './find-member.ts'
import type { SessionTokens } from './session-token.ts'

const CACHE_MAX = 5_000

/** What a request brings along to say who sends it. */
export interface Credentials {
  /** The header of that name. */
  authorization: string | undefined
  /** The header of that name: what a browser sends by itself counts only where the one above is absent. */
  cookie?: string | undefined
  /** The header `x-lobu-org`, or the organization in the path. */
  organizationSlug: string | undefined
}

export interface Authenticator {
  /**
   * Who sends this request.
   * @throws AppError 'unauthenticated', or 'forbidden' when the credential belongs to another organization.
   */
  authenticate(credentials: Credentials): Promise<Actor>
  /** Keys, members or sessions have changed: nothing that was known counts any more. */
  forget(): void
}

export interface AuthenticatorDeps {
  sql: Sql
  tokens: SessionTokens
  /** Without it browsers are nobody. */
  people?: PersonLookup
  /** Without it programs that people let in are nobody. */
  accessTokens?: AccessTokens
  /** Told of each request made with an API key. */
  noteKeyUse?(key: { organizationId: string; keyId: string }): void
}

export function createAuthenticator(deps: AuthenticatorDeps): Authenticator {
  const { sql, tokens, people, accessTokens, noteKeyUse } = deps
  // Keyed by hash: a memory dump of the cache must not hold keys that work.
  const known = createRecall<Actor>({ max: CACHE_MAX, ttlMs: ACCESS_CACHE_MS })

  async function actorOf(token: string, organizationSlug: string | undefined): Promise<Actor | null> {
    if (looksLikeAccessToken(token)) {
      const grant = (await accessTokens?.find(token)) ?? null
      return grant && (actorOfGrant(grant, organizationSlug) ?? refuse(organizationSlug ?? ''))
    }
    if (!looksLikeApiKey(token)) return actorOfSession(token)
    const actor = await known.get(sha256(token), () => findApiKey(sql, token))
    if (actor) noteKeyUse?.({ organizationId: actor.organizationId, keyId: actor.credentialId })
    return actor
  }

  /**
   * A session token is worth what its maker is: the key that it was made with, or the membership of the person together
   * with their browser session, or what they gave the program. Its
   * organization may have another slug by now. Tokens from before they named their maker are good until they expire.
   */
  async function actorOfSession(token: string): Promise<Actor | null> {
    const session = await tokens.verify(token)
    if (!session) return null
    const maker = await findMaker(session)
    if (maker === undefined) return session
    if (!maker?.permissions.has('conversations:use')) return null
    return { ...session, organizationSlug: maker.organizationSlug }
  }

  async function findMaker({ organizationId, keyId, memberId, madeIn = {} }: Actor): Promise<Actor | null | undefined> {
    if (keyId !== undefined) {
      return known.get(`${organizationId}/${keyId}`, () => findApiKeyById(sql, { organizationId, keyId }))
    }
    if (memberId === undefined) return undefined
    const name = [organizationId, 'member', memberId, madeIn.sessionId ?? '', madeIn.clientId ?? ''].join('/')
    return known.get(name, () => findMember(sql, { organizationId, userId: memberId, ...madeIn }))
  }

  async function authenticatePerson({ cookie, organizationSlug }: Credentials): Promise<Actor> {
    const person = await people?.identify(cookie)
    if (!person) throw new AppError('unauthenticated', 'Send "Authorization: Bearer <API key or session token>"')
    return actorOfPerson(person, organizationSlug) ?? refuse(organizationSlug ?? '')
  }

  async function refuse(slug: string): Promise<never> {
    const found = await sql`select 1 from organizations where slug = ${slug}`
    if (found.length === 0) throw new AppError('not_found', 'No such organization')
    throw new AppError('forbidden', 'This credential belongs to another organization')
  }

  return {
    async authenticate(credentials) {
      const { authorization, organizationSlug } = credentials
      if (authorization === undefined) return authenticatePerson(credentials)
      const token = /^Bearer +(\S+)$/i.exec(authorization)?.[1]
      if (!token) throw new AppError('unauthenticated', 'Send "Authorization: Bearer <API key or session token>"')
      const actor = await actorOf(token, organizationSlug)
      if (!actor) throw new AppError('unauthenticated', 'This credential is unknown, expired or revoked')
      if (organizationSlug && organizationSlug !== actor.organizationSlug) await refuse(organizationSlug)
      return actor
    },
    forget() {
      known.forget()
      people?.forget()
      accessTokens?.forget()
    },
  }
}
