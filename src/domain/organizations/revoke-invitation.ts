import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { recordAudit } from '../audit/record.ts'

/** From then on its link does not work. @throws AppError 'not_found' when there is none, or it was used or revoked. */
export async function revokeInvitation(
  sql: Sql,
  { actor, invitationId }: { actor: Actor; invitationId: string },
): Promise<void> {
  requirePermission(actor, 'members:write')
  await inTransaction(sql, async (tx) => {
    const revoked = await tx`
      update invitations set revoked_at = now()
      where organization_id = ${actor.organizationId} and id = ${invitationId}
        and accepted_at is null and revoked_at is null
      returning 1`
    if (revoked.length === 0) throw new AppError('not_found', 'No such invitation')
    const target = { targetKind: 'invitation', targetId: invitationId }
    await recordAudit(tx, actor, { action: 'invitation.revoked', ...target })
  })
}
