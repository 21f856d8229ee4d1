import type { Sql } from '../../db/client.ts'

/**
 * Removes keys that were revoked or have expired more than `keepMs` ago, at most `rowsMax`. Returns how many. Until then
 * they can be looked up by who finds one in a log. Served by `api_keys_ended_idx`.
 */
export async function removeEndedKeys(
  sql: Sql,
  { keepMs, rowsMax }: { keepMs: number; rowsMax: number },
): Promise<number> {
  const rows = await sql`
    delete from api_keys where (organization_id, id) in (
      select organization_id, id from api_keys
      where least(revoked_at, expires_at) < now() - ${keepMs} * interval '1 millisecond'
      order by least(revoked_at, expires_at) limit ${rowsMax} for update skip locked)
    returning 1`
  return rows.length
}
