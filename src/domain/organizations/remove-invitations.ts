import type { Sql } from '../../db/client.ts'
import { removeRows } from '../../db/remove-rows.ts'

/**
 * Removes invitations that were accepted or withdrawn, or have expired, more than `keepMs` ago, at most `rowsMax`. Returns
 * how many. That somebody was invited, and by whom, is in the audit log.
 */
export function removeClosedInvitations(
  sql: Sql,
  { keepMs, rowsMax }: { keepMs: number; rowsMax: number },
): Promise<number> {
  return removeRows(sql, {
    ...{ table: 'invitations', key: ['organization_id', 'id'], rowsMax },
    due: sql`least(accepted_at, revoked_at, expires_at) < now() - ${keepMs} * interval '1 millisecond'`,
  })
}
