import type { Sql } from '../../db/client.ts'
import type { Actor } from './actor.ts'
import { permissionsWithin, type Role } from './permissions.ts'

/** What a person may do in an organization; null when they are no member of it. */
export async function findMember(
  sql: Sql,
  { organizationId, userId }: { organizationId: string; userId: string },
): Promise<Actor | null> {
  const [row] = await sql<{ slug: string; role: Role }[]>`
    select o.slug, m.role from members m join organizations o on o.id = m.organization_id
    where m.organization_id = ${organizationId} and m.user_id = ${userId}`
  if (!row) return null
  return {
    ...{ kind: 'user', credentialId: userId, userId, organizationId, organizationSlug: row.slug, role: row.role },
    permissions: permissionsWithin(row.role, ['*']),
  }
}
