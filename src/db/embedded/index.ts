import { existsSync } from 'node:fs'
import type { Duplex } from 'node:stream'
import postgres, { type Sql } from 'postgres'
import type { Logger } from '../../lib/logger.ts'
import { openDataFolder } from './data-folder.ts'
import { createMaintenance } from './maintenance.ts'
import { type EngineThread, startEngineThread } from './thread.ts'

export { createTemplate } from './template.ts'

/**
 * Postgres inside this process, for development. All connections share one session, one statement runs at a time:
 *
 * - Only `set local` and transaction-level advisory locks: `set`, `pg_advisory_lock` and temporary tables of one
 *   connection are seen by all. Startup settings are ignored; times are UTC in ISO form.
 * - A transaction that awaits something slow stops the database; one that does so for too long is ended with 57014.
 * - Statements can be neither cancelled nor timed out; `copy … from stdin` is refused.
 */
export interface EmbeddedDatabase {
  /** One more connection, for the `socket` option of postgres.js. After the end it is a socket that fails. */
  socket(): Duplex
  /** Rolls back what is open, flushes, closes and frees the folder; idempotent. */
  stop(): Promise<void>
  /** Resolves when the engine dies while nobody stops it; every connection has failed then. Never rejects. */
  readonly failed: Promise<Error>
}

/** Durations are for tests; the defaults suit everyone else. */
export interface EmbeddedOptions {
  /** The database lives in `<dataDir>/postgres`; null: in memory, for tests. */
  dataDir: string | null
  /** A file of `createTemplate`; used for a new database where it exists. */
  templateFile?: string
  log: Logger
  /** A connection that keeps others waiting for so long is logged. */
  stallMs?: number
  /** A connection that keeps others waiting for so long without giving the engine work is ended. */
  idleHoldMsMax?: number
  maintainEveryMs?: number
}

/**
 * Starts the database in a thread of its own, so that statements never block the event loop.
 *
 * @throws Error naming the folder, at once, when another process uses it; or with the engine's reason when it can't start.
 */
export async function startEmbeddedDatabase(options: EmbeddedOptions): Promise<EmbeddedDatabase> {
  const { dataDir, templateFile, log, stallMs = 5000, idleHoldMsMax = 30_000 } = options
  const startedAt = performance.now()
  const folder = dataDir === null ? undefined : openDataFolder(dataDir)
  const useTemplate = folder?.fresh !== false && templateFile !== undefined && existsSync(templateFile)
  const settings = {
    dataFolder: folder?.path,
    templateFile: useTemplate ? templateFile : undefined,
    stallMs,
    idleHoldMsMax,
  }
  let thread: EngineThread
  try {
    thread = await startEngineThread(settings, {
      onStall: (stall) => log.warn(stall, 'embedded database: one connection kept others waiting'),
    })
    folder?.markReady()
  } catch (error) {
    folder?.release()
    throw error
  }
  const bootMs = Math.round(performance.now() - startedAt)
  log.info(
    { folder: folder?.path ?? 'memory', fresh: folder?.fresh ?? true, bootMs },
    'embedded database started: for development, without fsync; a loss of power may lose data',
  )
  return supervise(thread, { log, release: () => folder?.release(), everyMs: options.maintainEveryMs ?? 60_000 })
}

function supervise(
  thread: EngineThread,
  { log, release, everyMs }: { log: Logger; release(): void; everyMs: number },
): EmbeddedDatabase {
  const sql = connect(thread)
  const maintenance = createMaintenance({ sql, log }, { everyMs })
  let stopping: Promise<void> | undefined
  void maintenance.start()
  void thread.failed.then(() => maintenance.stop())

  async function stopOnce() {
    await Promise.all([maintenance.stop(), sql.end({ timeout: 1 })])
    await thread.stop()
    release()
  }

  return {
    socket: () => thread.socket(),
    stop() {
      stopping ??= stopOnce()
      return stopping
    },
    failed: thread.failed,
  }
}

/** postgres.js takes a maker of sockets, which its types do not say. */
function connect(thread: EngineThread): Sql {
  const socket = { socket: () => thread.socket() }
  return postgres({ ...socket, host: 'embedded', max: 1, fetch_types: false, onnotice: () => {} })
}
