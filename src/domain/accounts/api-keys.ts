import { randomBytes } from 'node:crypto'
import type { Sql } from '../../db/client.ts'
import { newId, sha256 } from '../../lib/ids.ts'
import type { Actor } from './actor.ts'
import { permissionsWithin, type Role } from './permissions.ts'

/** Every key begins with this, so that secret scanners can find one that leaked. */
const PREFIX = 'lobu_'
/** Characters of a key that are kept readable, to tell keys apart. */
const SHOWN_CHARS = 12
/** What a key may do at most that is the organization's own and no member's. */
const OWN_KEY_ROLE: Role = 'admin'

export interface NewApiKey {
  id: string
  /** The key itself: shown once, kept only as a hash. */
  token: string
}

/** Makes an API key of a member. `scopes` are permissions, or `*` for all that the member has. */
export async function createApiKey(
  sql: Sql,
  args: { organizationId: string; userId: string; name: string; scopes?: string[]; expiresAt?: Date | null },
): Promise<NewApiKey> {
  const id = newId('key')
  const token = `${PREFIX}${randomBytes(24).toString('base64url')}`
  await sql`
    insert into api_keys (organization_id, id, user_id, name, token_hash, token_prefix, scopes, expires_at)
    values (${args.organizationId}, ${id}, ${args.userId}, ${args.name}, ${sha256(token)},
      ${token.slice(0, SHOWN_CHARS)}, ${args.scopes ?? ['*']}, ${args.expiresAt ?? null})`
  return { id, token }
}

export function looksLikeApiKey(token: string): boolean {
  return token.startsWith(PREFIX)
}

/** Who speaks with a valid key; null for one that is unknown, revoked or expired, or whose owner is no member any more. */
export async function findApiKey(sql: Sql, token: string): Promise<Actor | null> {
  const [row] = await sql<
    { id: string; organizationId: string; slug: string; userId: string; role: Role; scopes: string[] }[]
  >`
    select k.id, k.organization_id as "organizationId", o.slug, coalesce(k.user_id, k.id) as "userId",
      coalesce(m.role, ${OWN_KEY_ROLE}) as role, k.scopes
    from api_keys k
    join organizations o on o.id = k.organization_id
    left join members m on m.organization_id = k.organization_id and m.user_id = k.user_id
    where k.token_hash = ${sha256(token)} and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
      and (k.user_id is null or m.user_id is not null)`
  if (!row) return null
  const { id, organizationId, slug, userId, role, scopes } = row
  return {
    kind: 'key',
    credentialId: id,
    ...{ organizationId, organizationSlug: slug, userId, role },
    permissions: permissionsWithin(role, scopes),
  }
}
