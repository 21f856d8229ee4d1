import type { Sql } from '../../db/client.ts'

/**
 * Removes what is of no use to anybody who signs in: browser sessions, links and codes that expired more than `keepMs` ago,
 * counts of tries that are as old, and setup links. Returns how many rows the fullest of the statements removed.
 */
export async function removeExpiredSignIns(
  sql: Sql,
  { keepMs, rowsMax }: { keepMs: number; rowsMax: number },
): Promise<number> {
  const before = sql`now() - ${keepMs} * interval '1 millisecond'`
  // better-auth counts in milliseconds; no window of tries is longer than a quarter of an hour.
  const triedBefore = Date.now() - Math.max(keepMs, 3_600_000)
  const removed = [
    await sql`
      delete from user_sessions where id in (
        select id from user_sessions where expires_at < ${before} order by expires_at limit ${rowsMax}
        for update skip locked)
      returning 1`,
    await sql`
      delete from verifications where id in (
        select id from verifications where expires_at < ${before} order by expires_at limit ${rowsMax}
        for update skip locked)
      returning 1`,
    await sql`
      delete from sign_in_rate_limits where id in (
        select id from sign_in_rate_limits where last_request < ${triedBefore} order by last_request limit ${rowsMax}
        for update skip locked)
      returning 1`,
    await sql`
      delete from setup_links where token_hash in (
        select token_hash from setup_links where expires_at < ${before} limit ${rowsMax} for update skip locked)
      returning 1`,
  ]
  return Math.max(...removed.map((rows) => rows.length))
}
