import type { Sql } from './client.ts'

/**
 * Runs `work` in one transaction: committed when it resolves, rolled back when it throws. Hand `tx` on, never `sql`:
 * a query on the pool inside would wait for a second connection while this one waits for it. No HTTP call, socket
 * write or other slow thing belongs in here.
 */
export function inTransaction<T>(sql: Sql, work: (tx: Sql) => Promise<T>): Promise<T> {
  return sql.begin((tx) => work(tx as unknown as Sql)) as Promise<T>
}
