import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import { sha256 } from '../../lib/ids.ts'
import { createRecall } from '../../lib/recall.ts'
import { ACCESS_CACHE_MS } from './access.ts'
import type { Actor } from './actor.ts'
import { permissionsWithin, type Role } from './permissions.ts'

/**
 * Beginnings of OAuth tokens, for secret scanners and for telling credentials apart: they are not the beginning of an API
 * key. The rest is random and kept only as a hash.
 */
export const ACCESS_TOKEN_PREFIX = 'lobuat_'
export const REFRESH_TOKEN_PREFIX = 'loburt_'

const CACHE_MAX = 5_000

/** What an access token stands for: a program that acts for a person, within what they let it do. */
export interface AccessGrant {
  clientId: string
  userId: string
  scopes: string[]
  /** Organizations of the person, the oldest membership first. */
  memberships: { organizationId: string; organizationSlug: string; name: string; role: Role }[]
}

export interface AccessTokens {
  /** What the token stands for; null when it is unknown, expired or revoked, or its client is disabled. */
  find(token: string): Promise<AccessGrant | null>
  /** Grants or members have changed: nothing that was known counts any more. */
  forget(): void
}

export function looksLikeAccessToken(token: string): boolean {
  return token.startsWith(ACCESS_TOKEN_PREFIX)
}

/** Looks up access tokens, and remembers them for a moment by their hash. */
export function createAccessTokens({ sql }: { sql: Sql }): AccessTokens {
  const known = createRecall<AccessGrant>({ max: CACHE_MAX, ttlMs: ACCESS_CACHE_MS })
  return {
    async find(token) {
      if (!looksLikeAccessToken(token)) return null
      const hash = sha256(token.slice(ACCESS_TOKEN_PREFIX.length))
      return known.get(hash, () => readGrant(sql, hash))
    },
    forget: known.forget,
  }
}

/** One join over `oauth_access_tokens_token_key`. A token that is bound to a key of its client is no bearer token. */
async function readGrant(sql: Sql, tokenHash: string): Promise<AccessGrant | null> {
  const rows = await sql<
    {
      clientId: string
      userId: string
      scopes: string[]
      organizationId: string | null
      slug: string
      name: string
      role: Role
    }[]
  >`
    select t.client_id as "clientId", t.user_id as "userId", t.scopes, m.organization_id as "organizationId", o.slug,
      o.name, m.role
    from oauth_access_tokens t
    join oauth_clients c on c.client_id = t.client_id and c.disabled is not true
    left join members m on m.user_id = t.user_id
    left join organizations o on o.id = m.organization_id
    where t.token = ${tokenHash} and t.revoked is null and t.expires_at > now() and t.user_id is not null
      and t.confirmation is null
    order by m.created_at, o.slug`
  const [first] = rows
  if (!first) return null
  const { clientId, userId, scopes } = first
  const memberships = rows.flatMap(({ organizationId, slug, name, role }) =>
    organizationId === null ? [] : [{ organizationId, organizationSlug: slug, name, role }],
  )
  return { clientId, userId, scopes, memberships }
}

/**
 * The program acts in the organization that the request names, else in the one that its person joined first, with what
 * the person may do there and has let it do. Undefined when the person is no member of the one named.
 * @throws AppError 'forbidden' for a person who is a member of none.
 */
export function actorOfGrant(grant: AccessGrant, organizationSlug: string | undefined): Actor | undefined {
  const { clientId, userId, scopes, memberships } = grant
  const membership = organizationSlug
    ? memberships.find((one) => one.organizationSlug === organizationSlug)
    : memberships[0]
  if (membership) {
    const { organizationId, organizationSlug: slug, role } = membership
    // A star is no scope that can be granted; it must not become one by a row that somebody wrote.
    const permissions = permissionsWithin(
      role,
      scopes.filter((scope) => scope !== '*'),
    )
    return { kind: 'client', credentialId: clientId, organizationId, organizationSlug: slug, userId, role, permissions }
  }
  if (organizationSlug) return undefined
  throw new AppError('forbidden', 'The person behind this token is a member of no organization')
}
