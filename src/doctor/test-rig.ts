import { inject } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../../tests/support/database.ts'
import { test as base, type World } from '../../tests/support/world.ts'
import { inspectConfig } from '../config.ts'
import { type Database, openDatabase } from '../db/client.ts'
import type { EncryptionSettings } from '../domain/secrets/keys.ts'
import { diagnoseDatabase } from './diagnose.ts'
import type { Finding } from './finding.ts'

export const SECRETS: EncryptionSettings = {
  jwt: 'bJ5k0yqWQ2n8sT4vR7uXzC1dF6gH9jLm',
  betterAuth: 'pA3sD8fG1hJ6kL9qW2eR5tY7uI0oZxCv',
  encryption: undefined,
  encryptionOld: [],
}

interface Look {
  env?: Record<string, string>
  secrets?: EncryptionSettings | null
  now?(): number
}

/** What doctor finds, by name; `place` is a database of the test's own with the whole schema, `empty` one with nothing in it. */
export const test = base.extend<{
  place: { url: string; db: Database }
  empty: { url: string; db: Database }
  look(url: string, how?: Look): Promise<Record<string, Finding>>
}>({
  place: async ({ world }, use) => use(await makeDatabase(world, false)),
  empty: async ({ world }, use) => use(await makeDatabase(world, true)),
  look: async ({ world }, use) => {
    await use(async (url, { env = {}, secrets = SECRETS, now = Date.now } = {}) => {
      const { config } = inspectConfig({ NODE_ENV: 'production', DATABASE_URL: url, ...env })
      const open = () => openDatabase({ ...config.db, dataDir: null, log: world.log })
      const findings = await diagnoseDatabase({ open, secrets, now, log: world.log }, config)
      return Object.fromEntries(findings.map((one) => [one.name, one]))
    })
  },
})

async function makeDatabase(world: World, isEmpty: boolean) {
  const database: TestDatabase = await createTestDatabase(inject('testServer'), { log: world.log, empty: isEmpty })
  world.defer(database.drop)
  const db = await database.open()
  world.defer(db.close)
  return { url: database.url!, db }
}
