import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { enforceEverywhere } from '../accounts/access.ts'
import { type Actor, requirePerson } from '../accounts/actor.ts'
import { recordAudit } from '../audit/record.ts'
import type { Signals } from '../signals.ts'
import { lockOrganization } from './lock.ts'
import { endMembership, requireMember, requireOtherOwner } from './membership.ts'

/**
 * Ends the caller's own membership, with their API keys and the invitations they made.
 * @throws AppError 'conflict' for the last owner; 'forbidden' for a credential that is no person.
 */
export async function leaveOrganization(
  deps: { sql: Sql; signals: Signals },
  { actor }: { actor: Actor },
): Promise<void> {
  const { userId } = requirePerson(actor)
  const { organizationId } = actor
  await inTransaction(deps.sql, async (tx) => {
    await lockOrganization(tx, organizationId)
    const { role } = await requireMember(tx, { organizationId, userId })
    if (role === 'owner') await requireOtherOwner(tx, { organizationId, userId })
    await recordAudit(tx, actor, { action: 'member.left', targetKind: 'member', targetId: userId, details: { role } })
    await endMembership(tx, { organizationId, userId })
  })
  await enforceEverywhere(deps.signals)
}
