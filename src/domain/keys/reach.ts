import type { Sql } from '../../db/client.ts'
import type { Actor } from '../accounts/actor.ts'
import { includesRole } from '../accounts/permissions.ts'

/** Admins and owners look after all keys of the organization, everybody else after their own. */
export function reachesAllKeys(actor: Actor): boolean {
  return actor.role !== null && includesRole(actor.role, 'admin')
}

/** SQL condition on `api_keys`: the caller may see and revoke it. Others are as good as unknown. */
export function reachableKeys(sql: Sql, actor: Actor) {
  const own = reachesAllKeys(actor) ? sql`` : sql`and user_id = ${actor.userId}`
  return sql`organization_id = ${actor.organizationId} ${own}`
}
