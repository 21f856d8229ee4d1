import { LRUCache } from 'lru-cache'
import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import { sha256 } from '../../lib/ids.ts'
import type { Actor } from './actor.ts'
import { findApiKey, looksLikeApiKey } from './api-keys.ts'
import type { SessionTokens } from './session-token.ts'

/** A revoked key may still work this long on a replica that has just used it. */
const CACHE_MS = 1_000
const CACHE_MAX = 5_000

export interface Authenticator {
  /**
   * Who sends this request.
   *
   * @param authorization the header of that name; @param organizationSlug the header `x-lobu-org`.
   * @throws AppError 'unauthenticated', or 'forbidden' when the credential belongs to another organization.
   */
  authenticate(authorization: string | undefined, organizationSlug: string | undefined): Promise<Actor>
}

export function createAuthenticator({ sql, tokens }: { sql: Sql; tokens: SessionTokens }): Authenticator {
  // Keyed by hash: a memory dump of the cache must not hold keys that work.
  const keys = new LRUCache<string, Actor>({ max: CACHE_MAX, ttl: CACHE_MS })

  async function actorOf(token: string): Promise<Actor | null> {
    if (!looksLikeApiKey(token)) {
      const claims = await tokens.verify(token)
      return claims && { kind: 'session', ...claims }
    }
    const cacheKey = sha256(token)
    const cached = keys.get(cacheKey)
    if (cached) return cached
    const found = await findApiKey(sql, token)
    if (!found) return null
    const actor: Actor = { kind: 'key', ...found }
    keys.set(cacheKey, actor)
    return actor
  }

  return {
    async authenticate(authorization, organizationSlug) {
      const token = /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1]
      if (!token) throw new AppError('unauthenticated', 'Send "Authorization: Bearer <API key or session token>"')
      const actor = await actorOf(token)
      if (!actor) throw new AppError('unauthenticated', 'This credential is unknown, expired or revoked')
      if (organizationSlug && organizationSlug !== actor.organizationSlug) await refuse(organizationSlug)
      return actor
    },
  }

  async function refuse(slug: string): Promise<never> {
    const known = await sql`select 1 from organizations where slug = ${slug}`
    if (known.length === 0) throw new AppError('not_found', 'No such organization')
    throw new AppError('forbidden', 'This credential belongs to another organization')
  }
}
