import type { Config, InspectedConfig } from '../config.ts'
import type { Database } from '../db/client.ts'
import type { EncryptionSettings } from '../domain/secrets/keys.ts'
import type { Logger } from '../lib/logger.ts'
import { checkClock, checkPooler, checkRights, checkServer, checkVector, connectFinding, guarded } from './database.ts'
import { type Finding, fail, ok } from './finding.ts'
import { checkDisk, checkMemory, checkWorkers } from './machine.ts'
import { checkPublicUrl } from './public-url.ts'
import { checkSchema } from './schema.ts'
import { checkMail, checkModels, checkSecrets, checkSettings } from './settings.ts'

export interface DoctorDeps {
  /** Opens the Postgres of the settings. Never called for the embedded one: opening that would change it. */
  open(config: Config): Promise<Database>
  /** What a gateway would work with; null as long as something is missing. */
  secrets: EncryptionSettings | null
  log: Logger
  /** This machine's clock in milliseconds. */
  now(): number
}

/**
 * Looks at everything that a gateway needs to run here, in the order in which it would fall over. Reads what it must and
 * changes nothing: no table, no file that stays, no message to a provider. Each look is bounded in time.
 */
export async function diagnose(deps: DoctorDeps, inspected: InspectedConfig): Promise<Finding[]> {
  const { config } = inspected
  const findings = [checkSettings(inspected), checkSecrets(inspected, deps.secrets !== null)]
  findings.push(...(await diagnoseDatabase(deps, config)))
  findings.push(...(await guarded('workers', () => checkWorkers(config, deps.log))))
  findings.push(checkMemory(config), ...(await checkDisk(config)), ...checkModels(config), checkMail(config))
  return findings
}

/** What needs a database, and the public URL, which is compared with it. */
export async function diagnoseDatabase(deps: DoctorDeps, config: Config): Promise<Finding[]> {
  const publicUrl = (db: Database | null) =>
    guarded('public url', () => checkPublicUrl(config, db === null ? null : db.sql))
  if (config.db.url === undefined) return [embedded(config), ...(await publicUrl(null))]
  let db: Database
  try {
    db = await deps.open(config)
  } catch (error) {
    return [connectFinding(error), ...(await publicUrl(null))]
  }
  try {
    return [...(await lookAround(deps, config, db)), ...(await publicUrl(db))]
  } finally {
    await db.close()
  }
}

function embedded({ mode, dataDir }: Config): Finding {
  if (mode !== 'production') return ok('database', `embedded, in ${dataDir}; for development`)
  return fail(
    'database',
    'DATABASE_URL is missing or cannot be read',
    'set it as postgres://USER:PASSWORD@HOST:5432/NAME',
  )
}

async function lookAround(deps: DoctorDeps, config: Config, db: Database): Promise<Finding[]> {
  const { sql } = db
  const findings: Finding[] = []
  const look = async (name: string, check: () => Promise<Finding | Finding[]>) =>
    void findings.push(...(await guarded(name, check)))
  await look('database', async () => checkServer(config, sql, (await db.describe()).poolMode))
  await look('pooler', () => checkPooler(config, db))
  await look('pgvector', () => checkVector(sql))
  await look('rights', () => checkRights(sql, { migratesHere: !config.db.skipMigrations }))
  await look('schema', () => checkSchema(sql, config, deps.secrets))
  await look('clock', () => checkClock(sql, deps.now))
  return findings
}
