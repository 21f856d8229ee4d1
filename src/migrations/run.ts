import type { Logger } from 'pino'
import type { Database, Dedicated, Sql, Tx } from '../db/client.ts'
import { ensureTenantRole } from '../db/tenant-role.ts'
import { backoffMs, jitter } from '../lib/backoff.ts'
import { sleep } from '../lib/sleep.ts'
import { explainStatement, isLockTimeout } from './explain.ts'
import { type AppliedMigration, compare, type Migration, readMigrations } from './files.ts'

/** Any number will do, as long as every release of this program uses the same. */
const LOCK_KEY = 7_262_027_001
/** How long another migrating process is waited for: it may be building an index. */
const LOCK_WAIT_MS = 600_000
const LOCK_POLL_MS = 100
/** A statement that waits for a table lock makes everybody behind it wait too, so it gives way soon and tries again. */
const LOCK_TIMEOUT_MS = 10_000
const LOCK_RETRIES = 3
/** A process that is frozen in the middle of a file keeps its locks no longer than this. */
const IDLE_MS_MAX = 60_000

export interface MigrateOptions {
  /** Folder with the `.sql` files and `meta/_journal.json`. */
  dir: string
  lockWaitMs?: number
  lockTimeoutMs?: number
}

export interface SchemaState {
  applied: number
  known: number
  /** Files of this build that the database lacks. Not empty: this build must not serve. */
  behind: string[]
  /** The database was migrated by a newer release, which this one tolerates. */
  ahead: boolean
}

/**
 * Brings the database up to date; resolves with the names of the files that this call applied.
 *
 * Any number may call it at once: one connection holds an advisory lock for the whole run, and each file is applied and
 * recorded in one transaction, which takes the lock again and looks again. So kill -9 at any moment leaves a state from
 * which the next run goes on, and it is safe through poolers and in the embedded engine, where session locks do not work.
 *
 * @throws Error of one sentence with the fix: a server that is away, a missing right or extension, an edited or late file,
 * a lock that was not free in time.
 */
export async function migrate(
  { database, log }: { database: Pick<Database, 'dedicated'>; log: Logger },
  options: MigrateOptions,
): Promise<{ applied: string[] }> {
  const migrations = await readMigrations(options.dir)
  const connection = await database.dedicated()
  const applied: string[] = []
  try {
    const { pending, unknown } = compare(migrations, await readApplied(connection.sql))
    if (unknown > 0) log.warn({ unknown }, 'the database was migrated by a newer release; carrying on')
    if (pending.length > 0) {
      const lockWaitMs = options.lockWaitMs ?? LOCK_WAIT_MS
      const run: Run = { connection, log, migrations, lockWaitMs, deadline: performance.now() + lockWaitMs }
      applied.push(...(await withRunLock(run, () => applyPending(run, options.lockTimeoutMs ?? LOCK_TIMEOUT_MS))))
    }
    await ensureTenantRole(connection.sql)
    return { applied }
  } finally {
    await connection.end()
  }
}

/** What this build and the database know of each other. One query; a database without the table has nothing applied. */
export async function schemaState(sql: Sql, dir: string): Promise<SchemaState> {
  const migrations = await readMigrations(dir)
  const applied = await readApplied(sql)
  const times = new Set(applied.map((row) => row.when))
  return {
    applied: applied.length,
    known: migrations.length,
    behind: migrations.filter((migration) => !times.has(migration.when)).map((migration) => migration.name),
    ahead: applied.some((row) => !migrations.some((migration) => migration.when === row.when)),
  }
}

interface Run {
  connection: Dedicated
  log: Logger
  migrations: Migration[]
  lockWaitMs: number
  /** By `performance.now()`: when to stop waiting for another process. */
  deadline: number
}

async function readApplied(sql: Sql | Tx): Promise<AppliedMigration[]> {
  // Asked first, because a failed query would end the transaction around it.
  const [table] = await sql<{ there: boolean }[]>`
    select to_regclass('drizzle.__drizzle_migrations') is not null as there`
  if (!table!.there) return []
  const rows = await sql<{ hash: string; created_at: number }[]>`
    select hash, created_at from drizzle.__drizzle_migrations`
  return rows.map((row) => ({ hash: row.hash, when: row.created_at }))
}

/** The session lock keeps a second process from starting at all. Asked for without waiting: a waiter would hold a snapshot, which CREATE INDEX CONCURRENTLY waits for. */
async function withRunLock<T>(run: Run, work: () => Promise<T>): Promise<T> {
  const { sql, session } = run.connection
  if (!session) return work()
  await waitForLock(run, async () => {
    const [row] = await sql<{ locked: boolean }[]>`select pg_try_advisory_lock(${LOCK_KEY}) as locked`
    return row!.locked
  })
  try {
    return await work()
  } finally {
    // On a connection that is gone the lock is gone as well.
    await sql`select pg_advisory_unlock(${LOCK_KEY})`.catch(() => {})
  }
}

async function waitForLock(run: Run, tryLock: () => Promise<boolean>) {
  while (!(await tryLock())) {
    if (performance.now() > run.deadline) {
      throw new Error(
        'Another process is migrating this database and does not finish: look for it in pg_stat_activity.',
      )
    }
    await sleep(jitter(LOCK_POLL_MS))
  }
}

async function applyPending(run: Run, lockTimeoutMs: number): Promise<string[]> {
  const applied: string[] = []
  for (;;) {
    const [next] = compare(run.migrations, await readApplied(run.connection.sql)).pending
    if (next === undefined) return applied
    const startedAt = performance.now()
    const mine = next.inTransaction
      ? await applyOne(run, next, lockTimeoutMs)
      : await applyWithoutTransaction(run, next)
    if (!mine) continue
    applied.push(next.name)
    run.log.info({ migration: next.name, ms: Math.round(performance.now() - startedAt) }, 'migration applied')
  }
}

/** Applies and records one file. False when another process was faster. Gives way to the holder of a table lock a few times. */
async function applyOne(run: Run, migration: Migration, lockTimeoutMs: number): Promise<boolean> {
  for (let attempt = 1; ; attempt++) {
    try {
      let outcome: 'applied' | 'not needed' | 'busy' = 'busy'
      await waitForLock(run, async () => {
        outcome = await run.connection.sql.begin((tx) => applyIn(tx, run, migration, lockTimeoutMs))
        return outcome !== 'busy'
      })
      return (outcome as string) === 'applied'
    } catch (error) {
      if (!isLockTimeout(error) || attempt > LOCK_RETRIES) throw error
      run.log.warn({ migration: migration.name, attempt }, 'a table is locked; trying again')
      await sleep(backoffMs(attempt, { baseMs: Math.min(1_000, lockTimeoutMs), maxMs: lockTimeoutMs }))
    }
  }
}

async function applyIn(tx: Tx, run: Run, migration: Migration, lockTimeoutMs: number) {
  const [row] = await tx<{ locked: boolean }[]>`select pg_try_advisory_xact_lock(${LOCK_KEY}) as locked`
  if (!row!.locked) return 'busy'
  if (!(await isPending(tx, run, migration))) return 'not needed'
  // The other two may be bounded by the server, the URL or a pooler: a file may take its time.
  await tx`
    select set_config('lock_timeout', ${String(lockTimeoutMs)}, true), set_config('statement_timeout', '0', true),
      set_config('idle_in_transaction_session_timeout', ${String(IDLE_MS_MAX)}, true)`
  await runStatements(tx, migration)
  await record(tx, migration)
  return 'applied'
}

async function isPending(sql: Sql | Tx, run: Run, migration: Migration): Promise<boolean> {
  return compare(run.migrations, await readApplied(sql)).pending.includes(migration)
}

async function runStatements(sql: Sql | Tx, migration: Migration) {
  for (const [index, statement] of migration.statements.entries()) {
    await sql.unsafe(statement).catch((error: unknown) => {
      throw explainStatement(migration.name, index + 1, error)
    })
  }
}

async function record(tx: Tx, migration: Migration) {
  const [table] = await tx<{ there: boolean }[]>`
    select to_regclass('drizzle.__drizzle_migrations') is not null as there`
  // Not `if not exists`: for that Postgres wants the right to create even when nothing is to be created.
  if (!table!.there) {
    await tx
      .unsafe(
        `create schema if not exists drizzle;
         create table drizzle.__drizzle_migrations (id serial primary key, hash text not null, created_at bigint)`,
      )
      .catch((error: unknown) => {
        throw explainStatement('journal', 1, error)
      })
  }
  await tx`insert into drizzle.__drizzle_migrations (hash, created_at) values (${migration.hash}, ${migration.when})`
}

/**
 * Each statement for itself, so each must stand being run again. A concurrent build that failed leaves an invalid index,
 * which `if not exists` would take for done: it is dropped before, and looked for afterwards.
 */
async function applyWithoutTransaction(run: Run, migration: Migration): Promise<boolean> {
  const { sql, session } = run.connection
  if (!session) {
    throw new Error(`Migration ${migration.name} cannot run through a transaction pooler: set DATABASE_DIRECT_URL.`)
  }
  // Such statements wait for every transaction that is older than they are, and hold up nobody meanwhile.
  await sql`select set_config('lock_timeout', ${String(run.lockWaitMs)}, false)`
  for (const name of await invalidIndexes(sql, migration))
    await sql.unsafe(`drop index concurrently if exists "${name}"`)
  await runStatements(sql, migration)
  const [broken] = await invalidIndexes(sql, migration)
  if (broken !== undefined)
    throw new Error(`Migration ${migration.name} left the index ${broken} invalid: migrate again.`)
  return sql.begin(async (tx) => {
    await tx`select pg_advisory_xact_lock(${LOCK_KEY})`
    if (!(await isPending(tx, run, migration))) return false
    await record(tx, migration)
    return true
  })
}

async function invalidIndexes(sql: Sql, migration: Migration): Promise<string[]> {
  const rows = await sql<{ name: string }[]>`
    select c.relname as name from pg_index i join pg_class c on c.oid = i.indexrelid
     where not i.indisvalid and c.relnamespace::regnamespace::text = any(current_schemas(false))`
  return rows.map((row) => row.name).filter((name) => new RegExp(`\\b${name}\\b`).test(migration.text))
}
