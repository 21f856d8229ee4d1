import type { Sql } from 'postgres'
import { createDoorbell } from '../../lib/doorbell.ts'
import { errorLine } from '../../lib/errors.ts'
import type { Logger } from '../../lib/logger.ts'
import type { Service } from '../../lib/service.ts'

/**
 * Does by timer what a server's autovacuum and checkpointer do, which the engine lacks: without them dead rows and the
 * write-ahead log grow without end. Table by table, so that others wait for one of them at most; nothing is done
 * when nothing was written since the last pass.
 */
export function createMaintenance({ sql, log }: { sql: Sql; log: Logger }, options: { everyMs: number }): Service {
  const stopping = new AbortController()
  const bell = createDoorbell()
  let loop: Promise<void> | undefined
  let doneAt: string | undefined

  async function run() {
    for (;;) {
      await bell.wait(options.everyMs, stopping.signal)
      if (stopping.signal.aborted) return
      await pass().catch((error: unknown) => {
        if (!stopping.signal.aborted) log.warn({ error: errorLine(error) }, 'embedded database: maintenance failed')
      })
    }
  }

  async function pass() {
    const startedAt = performance.now()
    if ((await logPosition(sql)) === doneAt) return
    const tables = await listDueTables(sql)
    for (const table of tables) {
      if (stopping.signal.aborted) return
      await sql.unsafe(`vacuum (analyze) ${table}`)
    }
    await sql.unsafe('checkpoint')
    doneAt = await logPosition(sql)
    const durationMs = Math.round(performance.now() - startedAt)
    log.debug({ tables: tables.length, durationMs }, 'embedded database: maintenance done')
  }

  return {
    name: 'embedded-database-maintenance',
    async start() {
      loop ??= run()
    },
    async stop() {
      stopping.abort()
      await loop
    },
  }
}

async function logPosition(sql: Sql): Promise<string | undefined> {
  const [row] = await sql<{ lsn: string }[]>`select pg_current_wal_insert_lsn()::text as lsn`
  return row?.lsn
}

/** Tables, quoted, of which more changed than autovacuum's own thresholds allow (50 rows and a tenth of the table). */
async function listDueTables(sql: Sql): Promise<string[]> {
  // The session's counts reach the view when a statement ends, but at most once a second unless it is told to.
  await sql`select pg_stat_force_next_flush()`
  const rows = await sql<{ name: string }[]>`
    select format('%I.%I', schemaname, relname) as name
    from pg_stat_user_tables
    where greatest(n_dead_tup, n_mod_since_analyze) > 50 + n_live_tup / 10`
  return rows.map((row) => row.name)
}
