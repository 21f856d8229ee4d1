import type { Sql } from '../../db/client.ts'
import type { Actor, Requester } from '../accounts/actor.ts'
import type { Role } from '../accounts/permissions.ts'
import { getOrganization, type Organization } from './get.ts'

export interface OwnOrganization extends Organization {
  /** The caller's own. */
  role: Role
}

interface Page {
  limit: number
  /** Continues behind this slug. */
  after?: string | undefined
}

/** The organizations that a person belongs to, by slug. `sql` is the pool itself: they may be any. Served by `members_user_idx`. */
export async function listOrganizations(
  sql: Sql,
  { requester, limit, after = '' }: { requester: Requester } & Page,
): Promise<OwnOrganization[]> {
  return sql<OwnOrganization[]>`
    select o.id, o.slug, o.name, o.created_at as "createdAt", m.role
    from members m join organizations o on o.id = m.organization_id
    where m.user_id = ${requester.userId} and o.slug > ${after} order by o.slug limit ${limit}`
}

/** What a credential of one organization sees: that one. A key that leaks does not tell where else its owner belongs. */
export async function listOnlyOrganization(sql: Sql, { actor }: { actor: Actor }): Promise<OwnOrganization[]> {
  const organization = await getOrganization(sql, { actor })
  return actor.role === null ? [] : [{ ...organization, role: actor.role }]
}
