import type { Sql } from '../../db/client.ts'
import type { Actor } from '../accounts/actor.ts'
import { includesRole, rankOf } from '../accounts/permissions.ts'

/** Admins and owners look after all keys of the organization, everybody else after their own. */
export function reachesAllKeys(actor: Actor): boolean {
  return actor.role !== null && includesRole(actor.role, 'admin')
}

/**
 * SQL condition on `api_keys`: the caller may see and revoke it. Others are as good as unknown. A credential of an admin
 * that is limited to some permissions reaches, besides the person's own, just the keys that are allowed no more than it.
 */
export function reachableKeys(sql: Sql, actor: Actor) {
  return sql`organization_id = ${actor.organizationId} ${within(sql, actor)}`
}

function within(sql: Sql, actor: Actor) {
  if (!reachesAllKeys(actor)) return sql`and user_id = ${actor.userId}`
  const rank = rankOf(actor)
  if (rank !== null && includesRole(rank, 'admin')) return sql``
  return sql`and (user_id = ${actor.userId} or scopes <@ ${[...actor.permissions]}::text[])`
}
