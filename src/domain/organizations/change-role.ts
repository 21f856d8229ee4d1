import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { enforceEverywhere } from '../accounts/access.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import type { Role } from '../accounts/permissions.ts'
import { recordAudit } from '../audit/record.ts'
import type { Signals } from '../signals.ts'
import { requireGrantable, requireRank } from './grant.ts'
import { lockOrganization } from './lock.ts'
import { requireMember, requireOtherOwner } from './membership.ts'

/**
 * Gives a member another role; it holds on every replica when this returns.
 * @throws AppError 'forbidden' for a role, or a member, above the caller's own; 'conflict' for the last owner;
 *   'not_found'.
 */
export async function changeRole(
  deps: { sql: Sql; signals: Signals },
  { actor, userId, role }: { actor: Actor; userId: string; role: Role },
): Promise<void> {
  requirePermission(actor, 'members:write')
  requireGrantable(actor, role)
  const { organizationId } = actor
  const changed = await inTransaction(deps.sql, async (tx) => {
    await lockOrganization(tx, organizationId)
    const before = await requireMember(tx, { organizationId, userId })
    requireRank(actor, before.role)
    if (before.role === role) return false
    if (before.role === 'owner') await requireOtherOwner(tx, { organizationId, userId })
    await tx`update members set role = ${role} where organization_id = ${organizationId} and user_id = ${userId}`
    const details = { before: before.role, after: role }
    await recordAudit(tx, actor, { action: 'member.role_changed', targetKind: 'member', targetId: userId, details })
    return true
  })
  if (changed) await enforceEverywhere(deps.signals)
}
