import type { Sql } from '../../db/client.ts'

/**
 * Removes sums of days that are older than `keepDays`, at most `rowsMax`, the oldest first. Returns how many. They name
 * users; the sums of months, which name nobody, stay. Served by `usage_days_day_idx`.
 */
export async function removeOldUsage(
  sql: Sql,
  { keepDays, rowsMax }: { keepDays: number; rowsMax: number },
): Promise<number> {
  const rows = await sql`
    delete from usage_days where (organization_id, day, agent_id, model, user_id) in (
      select organization_id, day, agent_id, model, user_id from usage_days
      where day < (now() at time zone 'utc')::date - ${keepDays}::int
      order by day limit ${rowsMax} for update skip locked)
    returning 1`
  return rows.length
}
