import type { Sql } from '../../db/client.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import type { Role } from '../accounts/permissions.ts'

export interface Invitation {
  id: string
  role: Role
  email: string | null
  invitedBy: string | null
  createdAt: Date
  expiresAt: Date
}

/** Invitations that can still be accepted, by their id; `after` continues behind one. Their links cannot be shown again. */
export async function listInvitations(
  sql: Sql,
  { actor, limit, after = '' }: { actor: Actor; limit: number; after?: string | undefined },
): Promise<Invitation[]> {
  requirePermission(actor, 'members:read')
  return sql<Invitation[]>`
    select id, role, email, invited_by as "invitedBy", created_at as "createdAt", expires_at as "expiresAt"
    from invitations
    where organization_id = ${actor.organizationId} and id > ${after}
      and accepted_at is null and revoked_at is null and expires_at > now()
    order by id limit ${limit}`
}
