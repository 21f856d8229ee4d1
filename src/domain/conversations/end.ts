import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { type Actor, requireConversation } from '../accounts/actor.ts'
import { cancelOpenRuns } from '../runs/cancel.ts'
import type { Signals } from '../signals.ts'

/**
 * Ends a conversation everywhere: its runs end as cancelled in the same transaction, its workers stop and its streams
 * close wherever they are. From then on its id is unknown.
 * @throws AppError 'not_found'
 */
export async function endConversation(
  deps: { sql: Sql; signals: Signals },
  { actor, conversationId }: { actor: Actor; conversationId: string },
): Promise<void> {
  requireConversation(actor, conversationId)
  const key = { organizationId: actor.organizationId, conversationId }
  const cancelled = await inTransaction(deps.sql, async (tx) => {
    const rows = await tx`
      update conversations set status = 'ended', resumable = false
      where organization_id = ${key.organizationId} and id = ${key.conversationId} and status = 'active' returning 1`
    if (rows.length === 0) throw new AppError('not_found', 'No such conversation')
    return cancelOpenRuns(tx, key)
  })
  for (const run of cancelled.ended) deps.signals.runEnded(run.id)
  if (cancelled.published.length > 0) deps.signals.published(cancelled.published)
  deps.signals.conversationEnded(key)
}
