import type { Sql } from '../../db/client.ts'
import { removeRows } from '../../db/remove-rows.ts'

/**
 * Removes what is of no use to anybody who signs in: browser sessions, links and codes that expired more than `keepMs` ago,
 * counts of tries that are as old, and setup links. Returns how many rows the fullest of the statements removed.
 */
export async function removeExpiredSignIns(
  sql: Sql,
  { keepMs, rowsMax }: { keepMs: number; rowsMax: number },
): Promise<number> {
  const expired = sql`expires_at < now() - ${keepMs} * interval '1 millisecond'`
  const first = sql`expires_at`
  // better-auth counts in milliseconds; no window of tries is longer than a quarter of an hour.
  const triedBefore = Date.now() - Math.max(keepMs, 3_600_000)
  const removed = [
    await removeRows(sql, { table: 'user_sessions', key: ['id'], due: expired, first, rowsMax }),
    await removeRows(sql, { table: 'verifications', key: ['id'], due: expired, first, rowsMax }),
    await removeRows(sql, {
      ...{ table: 'sign_in_rate_limits', key: ['id'], rowsMax },
      due: sql`last_request < ${triedBefore}`,
      first: sql`last_request`,
    }),
    await removeRows(sql, { table: 'setup_links', key: ['token_hash'], due: expired, rowsMax }),
  ]
  return Math.max(...removed)
}
