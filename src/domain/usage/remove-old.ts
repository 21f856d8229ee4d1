import type { Sql } from '../../db/client.ts'
import { removeRows } from '../../db/remove-rows.ts'

/**
 * Removes sums of days that are older than `keepDays`, at most `rowsMax`, the oldest first. Returns how many. They name
 * users; the sums of months, which name nobody, stay. Served by `usage_days_day_idx`.
 */
export function removeOldUsage(
  sql: Sql,
  { keepDays, rowsMax }: { keepDays: number; rowsMax: number },
): Promise<number> {
  return removeRows(sql, {
    ...{ table: 'usage_days', key: ['organization_id', 'day', 'agent_id', 'model', 'user_id'], rowsMax },
    due: sql`day < (now() at time zone 'utc')::date - ${keepDays}::int`,
    first: sql`day`,
  })
}
