import { openGatewayDatabase } from '../app.ts'
import type { Config } from '../config.ts'
import { discardLostKey } from '../domain/secrets/canary.ts'
import { createSecretsEnvelope } from '../domain/secrets/keys.ts'
import { rotateSecrets } from '../domain/secrets/rotate.ts'
import type { Envelope } from '../lib/envelope.ts'
import { createLogger } from '../lib/logger.ts'
import { migrationsFolder } from '../migrations/folder.ts'
import { schemaState } from '../migrations/run.ts'
import { completeSecrets } from './secrets.ts'

/**
 * `lobu secrets rotate`: seals everything with the current key that older ones have sealed, while gateways serve. May be
 * cut short, called again, and called twice at once. Exit code 1 when something was left that it could not open.
 */
export async function runRotateSecrets(config: Config): Promise<number> {
  return withSecrets(config, async (deps) => {
    const { resealed, damaged, missingKeyIds } = await rotateSecrets(deps)
    process.stdout.write(`${resealed} ${resealed === 1 ? 'value was' : 'values were'} sealed anew.\n`)
    if (damaged > 0) process.stderr.write(`${damaged} could not be opened and were left: set these secrets again.\n`)
    if (missingKeyIds.length > 0) {
      process.stderr.write(`Not all keys are at hand: list ${missingKeyIds.join(', ')} in ENCRYPTION_KEYS_OLD.\n`)
    }
    return damaged > 0 || missingKeyIds.length > 0 ? 1 : 0
  })
}

/** `lobu secrets discard <key id>`: removes what a lost key has sealed, so that a gateway without it can start. */
export async function runDiscardSecrets(config: Config, keyId: string): Promise<number> {
  return withSecrets(config, async (deps) => {
    const removed = await discardLostKey(deps, keyId)
    process.stdout.write(`${removed} ${removed === 1 ? 'value was' : 'values were'} removed.\n`)
    return 0
  })
}

async function withSecrets(
  config: Config,
  work: (deps: { sql: Awaited<ReturnType<typeof openGatewayDatabase>>['sql']; envelope: Envelope }) => Promise<number>,
): Promise<number> {
  const log = createLogger({ ...config.log, level: 'warn', stream: process.stderr })
  const envelope = createSecretsEnvelope(completeSecrets(config))
  const db = await openGatewayDatabase(config, log)
  try {
    const { behind } = await schemaState(db.sql, migrationsFolder())
    if (behind.length > 0) throw new Error('The database has no current schema yet. Run "lobu migrate" first.')
    return await work({ sql: db.sql, envelope })
  } finally {
    await db.close()
  }
}
