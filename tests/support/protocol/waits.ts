import { setTimeout as sleep } from 'node:timers/promises'
import type { Sql } from '../../../src/db/client.ts'
import type { Connection } from './connection.ts'

/** Most statements are answered sooner; until then nobody asks who waits. It decides nothing. */
const SOON_MS = 4

/**
 * Resolves when no connection can do anything by itself any more: each is idle, parked, or waits for a lock. Returns those
 * that wait. The server's locks are read at one instant; when all that are busy wait in it, nothing can change until
 * somebody is let on.
 */
export async function settle(
  watcher: Sql,
  { connections, moved }: { connections: Connection[]; moved: Connection },
): Promise<Connection[]> {
  const busy = () => connections.filter((connection) => connection.state() === 'busy')
  await Promise.race([moved.settled(), sleep(SOON_MS)])
  while (busy().length > 0) {
    const asked = busy()
    if (asked.length === 0) break
    const rows = await watcher<{ pid: number }[]>`
      select pid from pg_locks where not granted and pid = any(${asked.map((connection) => connection.pid)}::int[])`
    const waiting = new Set(rows.map((row) => row.pid))
    if (asked.every((connection) => waiting.has(connection.pid))) return asked
  }
  return []
}

/** Whether two that wait do so for each other, so that neither would ever go on. */
export async function isDeadlock(watcher: Sql, [a, b]: [Connection, Connection]): Promise<boolean> {
  const [row] = await watcher<{ dead: boolean }[]>`
    select ${a.pid}::int = any(pg_blocking_pids(${b.pid})) and ${b.pid}::int = any(pg_blocking_pids(${a.pid})) as dead`
  return row!.dead
}

/** Ends the statement that waits, and with it its transaction. */
export async function cancelStatement(watcher: Sql, { pid }: Connection): Promise<void> {
  await watcher`select pg_cancel_backend(${pid})`
}
