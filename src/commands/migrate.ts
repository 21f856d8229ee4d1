import { openGatewayDatabase, whenDatabaseIsThere } from '../app.ts'
import type { Config } from '../config.ts'
import type { Database } from '../db/client.ts'
import { createLogger, type Logger } from '../lib/logger.ts'
import { migrationsFolder } from '../migrations/folder.ts'
import { migrate } from '../migrations/run.ts'

/** Longer than a Postgres that was started together with us needs; whoever waits for this job must hear of a wrong address. */
const AWAY_MS_MAX = 60_000

/** `lobu migrate`: brings the schema up to date, whatever SKIP_MIGRATIONS says, and exits. */
export async function runMigrate(config: Config): Promise<number> {
  const log = createLogger(config.log)
  await whenDatabaseIsThere(() => migrateOnce(config, log), {
    forMs: AWAY_MS_MAX,
    onAway: (reason) => log.warn({ reason }, 'waiting for the database'),
  })
  return 0
}

async function migrateOnce(config: Config, log: Logger): Promise<void> {
  const db = await openGatewayDatabase(config, log)
  try {
    await migrateDatabase(db, log)
  } finally {
    await db.close()
  }
}

/** Applies what is missing. @throws Error with one sentence on what is wrong and what to do. */
export async function migrateDatabase(db: Database, log: Logger): Promise<void> {
  const { applied } = await migrate({ database: db, log }, { dir: migrationsFolder() })
  log.info({ applied }, applied.length === 0 ? 'schema is up to date' : 'schema migrated')
}
