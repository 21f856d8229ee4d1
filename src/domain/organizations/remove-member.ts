import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { enforceEverywhere } from '../accounts/access.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { recordAudit } from '../audit/record.ts'
import type { Signals } from '../signals.ts'
import { requireRank } from './grant.ts'
import { lockOrganization } from './lock.ts'
import { endMembership, requireMember, requireOtherOwner } from './membership.ts'

/**
 * Removes a member with their API keys and the invitations they made. When this returns, no replica lets them in.
 * @throws AppError 'forbidden' for a member above the caller; 'conflict' for the last owner; 'not_found'.
 */
export async function removeMember(
  deps: { sql: Sql; signals: Signals },
  { actor, userId }: { actor: Actor; userId: string },
): Promise<void> {
  requirePermission(actor, 'members:write')
  const { organizationId } = actor
  await inTransaction(deps.sql, async (tx) => {
    await lockOrganization(tx, organizationId)
    const { role } = await requireMember(tx, { organizationId, userId })
    requireRank(actor, role)
    if (role === 'owner') await requireOtherOwner(tx, { organizationId, userId })
    await recordAudit(tx, actor, {
      action: 'member.removed',
      targetKind: 'member',
      targetId: userId,
      details: { role },
    })
    await endMembership(tx, { organizationId, userId })
  })
  await enforceEverywhere(deps.signals)
}
