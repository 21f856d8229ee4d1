import type postgres from 'postgres'
import type { Sql } from './client.ts'

type Fragment = postgres.PendingQuery<postgres.Row[]>

/**
 * Removes at most `rowsMax` rows of a table of which `due` holds, and returns how many. `key` names the columns of its primary
 * key. `first` says which of them go first; with an index on it, a batch reads no more than it removes. What somebody else
 * holds or removes at the moment is left, so any number of replicas may do this at once.
 */
export async function removeRows(
  sql: Sql,
  {
    table,
    key,
    due,
    first,
    rowsMax,
  }: { table: string; key: string[]; due: Fragment; first?: Fragment; rowsMax: number },
): Promise<number> {
  const rows = await sql`
    delete from ${sql(table)} where (${sql(key)}) in (
      select ${sql(key)} from ${sql(table)} where ${due} ${first ? sql`order by ${first}` : sql``} limit ${rowsMax}
      for update skip locked)
    returning 1`
  return rows.length
}
