import { openGatewayDatabase } from '../app.ts'
import type { Config } from '../config.ts'
import { bootstrap } from '../domain/accounts/bootstrap.ts'
import { createLogger } from '../lib/logger.ts'
import { migrationsFolder } from '../migrations/folder.ts'
import { schemaState } from '../migrations/run.ts'

/**
 * `lobu bootstrap`: makes the first organization, its owner and its default agent where they are missing, and a new API
 * key, which alone goes to standard output; everything else goes to standard error.
 */
export async function runBootstrap(config: Config): Promise<number> {
  const log = createLogger({ ...config.log, level: 'warn', stream: process.stderr })
  const db = await openGatewayDatabase(config, log)
  try {
    const { behind } = await schemaState(db.sql, migrationsFolder())
    if (behind.length > 0) throw new Error('The database has no current schema yet. Run "lobu migrate" first.')
    const made = await bootstrap(db.sql, { onlyFirst: false })
    process.stderr.write(`New API key of the organization "${made!.organizationSlug}", shown only this once:\n`)
    process.stdout.write(`${made!.token}\n`)
    return 0
  } finally {
    await db.close()
  }
}
