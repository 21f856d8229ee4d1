import type { Sql } from '../../db/client.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { reachableKeys } from './reach.ts'

export interface ApiKey {
  id: string
  /** The first characters of the key. */
  tokenPrefix: string
  name: string
  scopes: string[]
  /** Null: the organization's own. */
  userId: string | null
  createdAt: Date
  expiresAt: Date | null
  lastUsedAt: Date | null
  /** The key that took its place; until it expires both work. */
  replacedBy: string | null
}

/** Keys that were not revoked, by their id, a page at a time: all of the organization for admins, else the caller's own. */
export async function listKeys(
  sql: Sql,
  { actor, limit, after = '' }: { actor: Actor; limit: number; after?: string | undefined },
): Promise<ApiKey[]> {
  requirePermission(actor, 'keys:read')
  return sql<ApiKey[]>`
    select ${keyColumns(sql)} from api_keys
    where ${reachableKeys(sql, actor)} and revoked_at is null and id > ${after}
    order by id limit ${limit}`
}

export function keyColumns(sql: Sql) {
  return sql`id, token_prefix as "tokenPrefix", name, scopes, user_id as "userId", created_at as "createdAt",
    expires_at as "expiresAt", last_used_at as "lastUsedAt", replaced_by as "replacedBy"`
}
