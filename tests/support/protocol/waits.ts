import { setTimeout as sleep } from 'node:timers/promises'
import type { Sql } from '../../../src/db/client.ts'
import type { Connection } from './connection.ts'
import { PAUSED } from './pauses.ts'

/** Most statements are answered sooner; until then nobody asks who waits. It decides nothing. */
const SOON_MS = 4

export interface Standing {
  /** Those that wait for a lock of another one. */
  waiting: Connection[]
  /** Those whose statement stands in a pause. */
  paused: Connection[]
}

/**
 * Resolves when no connection can do anything by itself any more: each is idle, parked, paused, or waits for a lock. The
 * server's locks are read at one instant; when all that are busy wait in it for one of us, nothing can change
 * until somebody is let on. What the server itself holds for a moment, such as autovacuum, is waited out.
 */
export async function settle(
  watcher: Sql,
  { connections, moved }: { connections: Connection[]; moved: Connection },
): Promise<Standing> {
  const busy = () => connections.filter((connection) => connection.state() === 'busy')
  await Promise.race([moved.settled(), sleep(SOON_MS)])
  for (let asked = busy(); asked.length > 0; asked = busy()) {
    const rows = await watcher<{ pid: number; paused: boolean }[]>`
      select pid, locktype = 'advisory' as paused from pg_locks
      where not granted and pid = any(${asked.map((connection) => connection.pid)}::int[])
        and (locktype = 'advisory' and classid = ${PAUSED} or pg_blocking_pids(pid) && ${connections.map((connection) => connection.pid)}::int[])`
    const standing = new Map(rows.map((row) => [row.pid, row.paused]))
    if (!asked.every((connection) => standing.has(connection.pid))) continue
    const [paused, waiting] = [true, false].map((is) => asked.filter(({ pid }) => standing.get(pid) === is))
    return { paused: paused!, waiting: waiting! }
  }
  return { waiting: [], paused: [] }
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
