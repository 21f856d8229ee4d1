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

export interface ApiKeyFields {
  organizationId: string
  /** Null: the organization's own. */
  userId: string | null
  name: string
  /** Permissions, or `*` for all that the owner of the key has. */
  scopes?: string[]
  expiresAt?: Date | null
  /** The program that its person made it with, directly or through another key: it ends when they take the program's access back. */
  clientId?: string | null
}

/** Makes an API key, without asking whether anybody may: for that see `domain/keys/create.ts`. */
export async function createApiKey(sql: Sql, fields: ApiKeyFields): Promise<NewApiKey> {
  const id = newId('key')
  const token = `${PREFIX}${randomBytes(24).toString('base64url')}`
  await sql`
    insert into api_keys (organization_id, id, user_id, name, token_hash, token_prefix, scopes, expires_at,
      client_id)
    values (${fields.organizationId}, ${id}, ${fields.userId}, ${fields.name}, ${sha256(token)},
      ${token.slice(0, SHOWN_CHARS)}, ${fields.scopes ?? ['*']}, ${fields.expiresAt ?? null}, ${fields.clientId ?? null})`
  return { id, token }
}

export function looksLikeApiKey(token: string): boolean {
  return token.startsWith(PREFIX)
}

/**
 * Who speaks with a valid key; null for one that is unknown, revoked or expired, or whose owner is no member any more, or
 * whose program is disabled.
 */
export async function findApiKey(sql: Sql, token: string): Promise<Actor | null> {
  return findWhere(sql, sql`k.token_hash = ${sha256(token)}`)
}

/** The same by its id, for what was made with the key: it is worth no more than the key still is. */
export async function findApiKeyById(
  sql: Sql,
  { organizationId, keyId }: { organizationId: string; keyId: string },
): Promise<Actor | null> {
  return findWhere(sql, sql`k.organization_id = ${organizationId} and k.id = ${keyId}`)
}

async function findWhere(sql: Sql, condition: ReturnType<Sql>): Promise<Actor | null> {
  const [row] = await sql<
    { id: string; organizationId: string; slug: string; userId: string; role: Role; scopes: string[] }[]
  >`
    select k.id, k.organization_id as "organizationId", o.slug, coalesce(k.user_id, k.id) as "userId",
      coalesce(m.role, ${OWN_KEY_ROLE}) as role, k.scopes
    from api_keys k
    join organizations o on o.id = k.organization_id
    left join members m on m.organization_id = k.organization_id and m.user_id = k.user_id
    where ${condition} and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
      and (k.user_id is null or m.user_id is not null)
      and (k.client_id is null or exists (
        select 1 from oauth_clients c where c.client_id = k.client_id and c.disabled is not true))`
  if (!row) return null
  const { id, organizationId, slug, userId, role, scopes } = row
  return {
    kind: 'key',
    credentialId: id,
    ...{ organizationId, organizationSlug: slug, userId, role },
    permissions: permissionsWithin(role, scopes),
  }
}
