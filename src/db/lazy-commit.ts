import type { Sql } from './client.ts'

/**
 * A table expression for a statement that may be lost when Postgres itself crashes: its commit does not wait for the
 * disk. For leases, heartbeats, and replies that nobody has seen yet; never for what was acknowledged or shown, which
 * a later commit that does wait makes durable together with all before it.
 * https://www.postgresql.org/docs/current/wal-async-commit.html
 */
export function lazyCommit(sql: Sql) {
  return sql`(select set_config('synchronous_commit', 'off', true)) as lazy_commit`
}
