import type { Sql } from '../../db/client.ts'
import { removeRows } from '../../db/remove-rows.ts'

/**
 * Removes keys that were revoked or have expired more than `keepMs` ago, at most `rowsMax`. Returns how many. Until then
 * they can be looked up by who finds one in a log. Served by `api_keys_ended_idx`.
 */
export function removeEndedKeys(sql: Sql, { keepMs, rowsMax }: { keepMs: number; rowsMax: number }): Promise<number> {
  const ended = sql`least(revoked_at, expires_at)`
  return removeRows(sql, {
    ...{ table: 'api_keys', key: ['organization_id', 'id'], rowsMax },
    due: sql`${ended} < now() - ${keepMs} * interval '1 millisecond'`,
    first: ended,
  })
}
