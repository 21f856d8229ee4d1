import { randomBytes } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { type Database, openDatabase } from '../../src/db/client.ts'
import { startEmbeddedDatabase } from '../../src/db/embedded/index.ts'
import type { Logger } from '../../src/lib/logger.ts'
import { migrate } from '../../src/migrations/run.ts'

export const MIGRATIONS = fileURLToPath(new URL('../../src/migrations', import.meta.url))

/** What `global-setup.ts` found for the tests to run on. */
export type TestServer =
  | { kind: 'postgres' /** A superuser's URL of a database to connect to first. */; url: string; template: string }
  | { kind: 'embedded'; templateFile: string }

/** A database of one test file. Pools of it are opened with the options that production uses. */
export interface TestDatabase {
  readonly kind: 'postgres' | 'embedded'
  /** For a process of its own; undefined in the embedded engine, which only this process reaches. */
  readonly url: string | undefined
  open(options?: { poolMax?: number }): Promise<Database>
  drop(): Promise<void>
}

/** Tests hold locks while others do something, which takes its time on a busy machine. */
const HELD_MS_MAX = 120_000

/**
 * A database of its own with the whole schema, or an empty one: a copy of the template, or an engine in memory.
 * Copying takes a few hundred milliseconds, so there is one for a file and not for a test.
 */
export async function createTestDatabase(
  server: TestServer,
  { log, empty = false }: { log: Logger; empty?: boolean },
): Promise<TestDatabase> {
  return server.kind === 'postgres' ? cloneTemplate(server, { log, empty }) : startEngine(server, { log, empty })
}

async function cloneTemplate(
  server: Extract<TestServer, { kind: 'postgres' }>,
  { log, empty }: { log: Logger; empty: boolean },
): Promise<TestDatabase> {
  const name = newDatabaseName()
  const url = withDatabase(server.url, name)
  await withAdmin(server.url, log, (run) =>
    run(`create database ${name} template ${empty ? 'template0' : server.template}`),
  )
  return {
    kind: 'postgres',
    url,
    open: ({ poolMax = 4 } = {}) =>
      openDatabase({ url, poolMax, transactionIdleMsMax: HELD_MS_MAX, dataDir: null, log }),
    drop: () => dropTestDatabase(server.url, name, log),
  }
}

async function startEngine(
  { templateFile }: { templateFile: string },
  { log, empty }: { log: Logger; empty: boolean },
): Promise<TestDatabase> {
  const engine = await startEmbeddedDatabase({ dataDir: null, templateFile, log })
  const open = ({ poolMax = 4 } = {}) => openDatabase({ engine, poolMax, dataDir: null, log })
  if (!empty) {
    const database = await open()
    await migrate({ database, log }, { dir: MIGRATIONS })
    await database.close()
  }
  return { kind: 'embedded', url: undefined, open, drop: () => engine.stop() }
}

/** Runs statements on a connection of its own to the server's first database, as CREATE DATABASE wants it. */
export async function withAdmin<T>(
  url: string,
  log: Logger,
  work: (run: (statement: string) => Promise<Record<string, unknown>[]>) => Promise<T>,
): Promise<T> {
  const database = await openDatabase({ url, poolMax: 1, dataDir: null, log })
  const { sql, end } = await database.dedicated()
  try {
    return await work((statement) => sql.unsafe<Record<string, unknown>[]>(statement).then((rows) => [...rows]))
  } finally {
    await end()
    await database.close()
  }
}

/** The time in the name tells a later run that a crashed one left it behind. */
export function newDatabaseName(): string {
  return `lobu_${Date.now().toString(36)}_${randomBytes(4).toString('hex')}_test`
}

/** Drops a database with whoever is connected to it. Refuses a name that is not one of ours. */
export async function dropTestDatabase(url: string, name: string, log: Logger): Promise<void> {
  if (!/^lobu_[a-z0-9_]+_test$/.test(name)) throw new Error(`${name} is not a test database`)
  await withAdmin(url, log, (run) => run(`drop database if exists ${name} with (force)`))
}

/** The same server and user, another database. */
export function withDatabase(url: string, name: string): string {
  const changed = new URL(url)
  changed.pathname = `/${name}`
  return changed.href
}
