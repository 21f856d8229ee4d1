import { randomBytes } from 'node:crypto'
import type { Sql } from '../../db/client.ts'
import { newId, sha256 } from '../../lib/ids.ts'

/** Every key begins with this, so that secret scanners can find one that leaked. */
const PREFIX = 'lobu_'
/** Characters of a key that are kept readable, to tell keys apart. */
const SHOWN_CHARS = 12

export interface NewApiKey {
  id: string
  /** The key itself: shown once, kept only as a hash. */
  token: string
}

/** Makes an API key of an organization. */
export async function createApiKey(
  sql: Sql,
  args: { organizationId: string; userId: string; name: string },
): Promise<NewApiKey> {
  const id = newId('key')
  const token = `${PREFIX}${randomBytes(24).toString('base64url')}`
  await sql`
    insert into api_keys (organization_id, id, user_id, name, token_hash, token_prefix)
    values (${args.organizationId}, ${id}, ${args.userId}, ${args.name}, ${sha256(token)}, ${token.slice(0, SHOWN_CHARS)})`
  return { id, token }
}

export function looksLikeApiKey(token: string): boolean {
  return token.startsWith(PREFIX)
}

/** The organization and owner of a valid key; null for one that is unknown, revoked or expired. */
export async function findApiKey(
  sql: Sql,
  token: string,
): Promise<{ organizationId: string; organizationSlug: string; userId: string } | null> {
  const [row] = await sql<{ organizationId: string; organizationSlug: string; userId: string }[]>`
    select k.organization_id as "organizationId", o.slug as "organizationSlug", coalesce(k.user_id, k.id) as "userId"
    from api_keys k join organizations o on o.id = k.organization_id
    where k.token_hash = ${sha256(token)} and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())`
  return row ?? null
}
