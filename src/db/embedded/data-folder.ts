import { chmodSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'

/** The folder of the database's files, held by this process alone. */
export interface DataFolder {
  path: string
  /** There is no database in it yet. */
  fresh: boolean
  /** Says that the database was completely initialised. Until then the next start begins anew. */
  markReady(): void
  release(): void
}

const SQLITE_BUSY = 5

/**
 * Takes `<dataDir>/postgres` for this process. The engine itself does not notice a second process on its files, and
 * the second loses all it wrote; hence the lock, which the kernel drops when the process ends in whatever way.
 *
 * @throws Error at once, naming the folder, when another process holds it.
 */
export function openDataFolder(dataDir: string): DataFolder {
  const path = resolve(dataDir, 'postgres')
  const unfinished = join(dataDir, 'postgres.unfinished')
  mkdirSync(dataDir, { recursive: true, mode: 0o700 })
  const release = lockFile(join(dataDir, 'postgres.lock'), path)
  if (existsSync(unfinished)) rmSync(path, { recursive: true, force: true })
  const fresh = !existsSync(join(path, 'PG_VERSION'))
  if (fresh) writeFileSync(unfinished, '')
  mkdirSync(path, { recursive: true, mode: 0o700 })
  chmodSync(path, 0o700)
  return { path, fresh, markReady: () => rmSync(unfinished, { force: true }), release }
}

/** An exclusive SQLite transaction is an operating system's lock on the file, on every platform, without native code. */
function lockFile(file: string, folder: string): () => void {
  const { DatabaseSync } = loadSqlite()
  const lock = new DatabaseSync(file)
  try {
    lock.exec('pragma busy_timeout = 0; pragma journal_mode = memory; begin exclusive')
  } catch (error) {
    lock.close()
    if ((error as { errcode?: unknown }).errcode !== SQLITE_BUSY) throw error
    throw new Error(
      `The embedded database in ${folder} is in use by another process. Stop that one, ` +
        'choose another folder with LOBU_DATA_DIR, or set DATABASE_URL to a Postgres server that several can share.',
    )
  }
  return () => lock.close()
}

/** node:sqlite, without the warning by which older releases of Node call it experimental. */
function loadSqlite() {
  const { emitWarning } = process
  process.emitWarning = () => {}
  try {
    return process.getBuiltinModule('node:sqlite')
  } finally {
    process.emitWarning = emitWarning
  }
}
