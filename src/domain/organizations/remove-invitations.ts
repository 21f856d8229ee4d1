import type { Sql } from '../../db/client.ts'

/**
 * Removes invitations that were accepted or withdrawn, or have expired, more than `keepMs` ago, at most `rowsMax`. Returns
 * how many. That somebody was invited, and by whom, is in the audit log.
 */
export async function removeClosedInvitations(
  sql: Sql,
  { keepMs, rowsMax }: { keepMs: number; rowsMax: number },
): Promise<number> {
  const rows = await sql`
    delete from invitations where (organization_id, id) in (
      select organization_id, id from invitations
      where least(accepted_at, revoked_at, expires_at) < now() - ${keepMs} * interval '1 millisecond'
      limit ${rowsMax} for update skip locked)
    returning 1`
  return rows.length
}
