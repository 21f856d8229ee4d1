import { LRUCache } from 'lru-cache'
import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import { sha256 } from '../../lib/ids.ts'
import type { Actor } from './actor.ts'
import { findApiKey, looksLikeApiKey } from './api-keys.ts'
import { actorOfPerson, type PersonLookup } from './browser-session.ts'
import type { SessionTokens } from './session-token.ts'

/**
 * Every change of a key, a member or a session is rung to all replicas, which then forget what they knew. This is the
 * bound for a replica that missed the ring.
 */
const CACHE_MS = 1_000
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

export function createAuthenticator(deps: {
  sql: Sql
  tokens: SessionTokens
  /** Without it browsers are nobody. */
  people?: PersonLookup
}): Authenticator {
  const { sql, tokens, people } = deps
  // Keyed by hash: a memory dump of the cache must not hold keys that work.
  const known = new LRUCache<string, Actor>({ max: CACHE_MAX, ttl: CACHE_MS })
  /** Look-ups that began before the last change must not be kept. */
  let generation = 0

  async function actorOf(token: string): Promise<Actor | null> {
    if (!looksLikeApiKey(token)) return tokens.verify(token)
    const cacheKey = sha256(token)
    const cached = known.get(cacheKey)
    if (cached) return cached
    const begun = generation
    const actor = await findApiKey(sql, token)
    if (actor && begun === generation) known.set(cacheKey, actor)
    return actor
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
      const actor = await actorOf(token)
      if (!actor) throw new AppError('unauthenticated', 'This credential is unknown, expired or revoked')
      if (organizationSlug && organizationSlug !== actor.organizationSlug) await refuse(organizationSlug)
      return actor
    },
    forget() {
      generation++
      known.clear()
      people?.forget()
    },
  }
}
