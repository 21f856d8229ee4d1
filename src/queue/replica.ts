import type { Sql } from '../db/client.ts'
import { lazyCommit } from '../db/lazy-commit.ts'
import type { Logger } from '../lib/logger.ts'
import { createLoop, type Loop } from '../lib/loop.ts'

export interface Replica extends Loop {
  readonly id: string
  /** Writes this replica's row for the first time; everything that refers to it comes after. */
  register(): Promise<void>
  /** Removes the row, so that nobody waits for this replica. */
  leave(): Promise<void>
}

/**
 * This replica's own row: it lives as long as its lease, by the database's clock. Every replica also removes the rows
 * of those that stopped renewing long ago.
 */
export function createReplica(
  { sql, log }: { sql: Sql; log: Logger },
  { id, version, leaseMs }: { id: string; version: string; leaseMs: number },
): Replica {
  const loop = createLoop({ log }, { name: 'replica', everyMs: leaseMs / 3, pass })

  async function pass() {
    await renew()
    await sql`delete from replicas where lease_until < now() - ${leaseMs * 10} * interval '1 millisecond'`
  }

  function renew() {
    return sql`
      insert into replicas (id, version, lease_until)
      select ${id}, ${version}, now() + ${leaseMs} * interval '1 millisecond' from ${lazyCommit(sql)}
      on conflict (id) do update set lease_until = excluded.lease_until`
  }

  return {
    ...loop,
    id,
    register: async () => void (await renew()),
    leave: async () => void (await sql`delete from replicas where id = ${id}`),
  }
}
