import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import type { Role } from '../accounts/permissions.ts'
import { revokeKeysOf } from '../keys/revoke.ts'

interface MemberKey {
  organizationId: string
  userId: string
}

/** The caller holds the organization's lock, so the role stays what it is. @throws AppError 'not_found' */
export async function requireMember(tx: Sql, { organizationId, userId }: MemberKey): Promise<{ role: Role }> {
  const [row] = await tx<{ role: Role }[]>`
    select role from members where organization_id = ${organizationId} and user_id = ${userId}`
  if (!row) throw new AppError('not_found', 'No such member')
  return row
}

/**
 * The caller holds the organization's lock: who comes next sees what this change has left.
 * @throws AppError 'conflict' when the organization would have no owner without this member.
 */
export async function requireOtherOwner(tx: Sql, { organizationId, userId }: MemberKey): Promise<void> {
  const others = await tx`
    select 1 from members where organization_id = ${organizationId} and role = 'owner' and user_id <> ${userId} limit 1`
  if (others.length > 0) return
  throw new AppError('conflict', 'This is the last owner: make somebody else an owner first')
}

/**
 * Ends a membership and all that came from it: keys would work again when the person came back, and invitations would
 * outlive the right to make them.
 */
export async function endMembership(tx: Sql, { organizationId, userId }: MemberKey): Promise<void> {
  await tx`delete from members where organization_id = ${organizationId} and user_id = ${userId}`
  await revokeKeysOf(tx, { organizationId, userId })
  await tx`
    update invitations set revoked_at = now()
    where organization_id = ${organizationId} and invited_by = ${userId} and accepted_at is null and revoked_at is null`
}
