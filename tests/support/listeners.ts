import type { Cluster } from './cluster.ts'

/** What a replica's LISTEN connection does: it listens, or rings for itself. */
const LISTENS = `(query ilike 'listen %' or query like 'select pg_notify(''lobu_ping%')`

/** Ends every connection that listens, as a failover does, and resolves with how many there were. */
export async function endListeners({ database }: Pick<Cluster, 'database'>): Promise<number> {
  const rows = await database.sql.unsafe(
    `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and ${LISTENS}`,
  )
  return rows.length
}

export async function countListeners({ database }: Pick<Cluster, 'database'>): Promise<number> {
  const [row] = await database.sql.unsafe<{ count: number }[]>(
    `select count(*)::int as count from pg_stat_activity where datname = current_database() and ${LISTENS}`,
  )
  return row!.count
}
