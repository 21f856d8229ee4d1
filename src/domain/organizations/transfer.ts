import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { enforceEverywhere } from '../accounts/access.ts'
import { type Actor, requirePermission, requirePerson } from '../accounts/actor.ts'
import { recordAudit } from '../audit/record.ts'
import type { Signals } from '../signals.ts'
import { requireGrantable } from './grant.ts'
import { lockOrganization } from './lock.ts'
import { requireMember } from './membership.ts'

/**
 * Makes another member an owner and the caller an admin, together.
 * @throws AppError 'not_found' when the other is no member; 'conflict' for oneself; 'forbidden' for who is no owner.
 */
export async function transferOwnership(
  deps: { sql: Sql; signals: Signals },
  { actor, userId }: { actor: Actor; userId: string },
): Promise<void> {
  requirePermission(actor, 'organization:delete')
  requireGrantable(actor, 'owner')
  const own = requirePerson(actor).userId
  if (own === userId) throw new AppError('conflict', 'You own this organization already')
  const { organizationId } = actor
  await inTransaction(deps.sql, async (tx) => {
    await lockOrganization(tx, organizationId)
    const mine = await requireMember(tx, { organizationId, userId: own })
    if (mine.role !== 'owner') throw new AppError('forbidden', 'Only an owner can transfer the organization')
    const { role } = await requireMember(tx, { organizationId, userId })
    await tx`
      update members set role = case when user_id = ${own} then 'admin' else 'owner' end
      where organization_id = ${organizationId} and user_id in (${own}, ${userId})`
    const details = { before: role, from: own }
    const target = { targetKind: 'member', targetId: userId, details }
    await recordAudit(tx, actor, { action: 'organization.transferred', ...target })
  })
  await enforceEverywhere(deps.signals)
}
