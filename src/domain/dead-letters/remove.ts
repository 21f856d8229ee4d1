import type { Sql } from '../../db/client.ts'
import { removeRows } from '../../db/remove-rows.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { isUuid } from '../../lib/ids.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { recordAudit } from '../audit/record.ts'

export interface TakenDeadLetter {
  queue: string
  payload: Record<string, unknown>
}

/**
 * Takes a dead letter away: whoever gets it here is the only one who does, as long as its transaction commits.
 * @throws AppError 'not_found', also for another organization's, and 'forbidden'
 */
export async function takeDeadLetter(sql: Sql, { actor, id }: { actor: Actor; id: string }): Promise<TakenDeadLetter> {
  requirePermission(actor, 'organization:write')
  const [row] = !isUuid(id)
    ? []
    : await sql<TakenDeadLetter[]>`
        delete from dead_letters where organization_id = ${actor.organizationId} and id = ${id}
        returning queue, payload`
  if (!row) throw new AppError('not_found', 'No such dead letter')
  return row
}

/** Forgets a dead letter, on record. @throws AppError 'not_found', 'forbidden' */
export async function removeDeadLetter(sql: Sql, { actor, id }: { actor: Actor; id: string }): Promise<void> {
  await inTransaction(sql, async (tx) => {
    const letter = await takeDeadLetter(tx, { actor, id })
    const details = describeDeadLetter(letter)
    await recordAudit(tx, actor, { action: 'dead_letter.removed', targetKind: 'dead_letter', targetId: id, details })
  })
}

/** What the record says of a dead letter: which work it was, never what it said or where exactly it went. */
export function describeDeadLetter({ queue, payload }: TakenDeadLetter): Record<string, unknown> {
  const inner = (payload.payload ?? payload) as { conversationId?: unknown; messageId?: unknown }
  const host = typeof payload.target === 'string' ? URL.parse(payload.target)?.host : undefined
  return { queue, conversationId: inner.conversationId, messageId: inner.messageId, host }
}

/** Removes those that are older than `keepMs`, at most `rowsMax`, the oldest first. Served by `dead_letters_created_idx`. */
export function removeOldDeadLetters(
  sql: Sql,
  { keepMs, rowsMax }: { keepMs: number; rowsMax: number },
): Promise<number> {
  return removeRows(sql, {
    ...{ table: 'dead_letters', key: ['organization_id', 'id'], rowsMax },
    due: sql`created_at < now() - ${keepMs} * interval '1 millisecond'`,
    first: sql`created_at`,
  })
}
