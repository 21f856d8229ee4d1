import type { Sql } from '../../db/client.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import type { Role } from '../accounts/permissions.ts'

export interface Member {
  userId: string
  name: string
  email: string
  role: Role
  joinedAt: Date
}

/** Members by their id, a page at a time; `after` continues behind an id. */
export async function listMembers(
  sql: Sql,
  { actor, limit, after = '' }: { actor: Actor; limit: number; after?: string | undefined },
): Promise<Member[]> {
  requirePermission(actor, 'members:read')
  return sql<Member[]>`
    select m.user_id as "userId", u.name, u.email, m.role, m.created_at as "joinedAt"
    from members m join users u on u.id = m.user_id
    where m.organization_id = ${actor.organizationId} and m.user_id > ${after}
    order by m.user_id limit ${limit}`
}
