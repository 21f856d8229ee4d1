import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import { isUuid } from '../../lib/ids.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'

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

/** Removes those that are older than `keepMs`, at most `rowsMax`, the oldest first. Served by `dead_letters_created_idx`. */
export async function removeOldDeadLetters(
  sql: Sql,
  { keepMs, rowsMax }: { keepMs: number; rowsMax: number },
): Promise<number> {
  const rows = await sql`
    delete from dead_letters where (organization_id, id) in (
      select organization_id, id from dead_letters
      where created_at < now() - ${keepMs} * interval '1 millisecond'
      order by created_at limit ${rowsMax} for update skip locked)
    returning 1`
  return rows.length
}
