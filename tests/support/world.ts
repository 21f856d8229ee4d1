import { randomBytes } from 'node:crypto'
import { test as base, beforeEach, inject } from 'vitest'
import type { Database } from '../../src/db/client.ts'
import { createLogger, type Logger } from '../../src/lib/logger.ts'
import type { Service } from '../../src/lib/service.ts'
import { createTestDatabase, type TestDatabase } from './database.ts'

export interface World {
  /** One more replica's view of the file's database: a pool of its own, closed after the test. */
  replica(options?: { poolMax?: number }): Promise<Database>
  /** A name that no other test of the file uses. */
  unique(name: string): string
  /** Starts a service and hands it back; it is stopped after the test, before the replicas are closed, last started first. */
  run<T extends Service>(service: T): Promise<T>
  /** Registers something else to be undone after the test, in the same order. */
  defer(undo: () => Promise<unknown>): void
  /** Silent. */
  readonly log: Logger
}

const log = createLogger({ level: 'silent', pretty: false })

/**
 * `database`: one for each test file, with the whole schema. Tests share its tables, so each works under names of its
 * own (`world.unique`) and counts only those. `world`: one for each test; undoes what the test started, last first.
 */
export const test = base.extend<{ $file: { database: TestDatabase }; $test: { world: World } }>({
  database: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the parameter list
    async ({}, use) => {
      const database = await createTestDatabase(inject('testServer'), { log })
      await use(database)
      await database.drop()
    },
    { scope: 'file' },
  ],
  world: async ({ database }, use) => {
    const { world, close } = createWorld(database)
    await use(world)
    await close()
  },
})

/**
 * At the top of a file or a `describe`: its tests need a real server, for example because they start processes or end
 * connections. On the embedded engine they are skipped, with the reason.
 */
export function requirePostgres(reason: string): void {
  beforeEach(({ skip }) => {
    if (inject('testServer').kind === 'embedded') skip(`needs a Postgres server: ${reason}`)
  })
}

function createWorld(database: TestDatabase): { world: World; close(): Promise<void> } {
  const undo: (() => Promise<unknown>)[] = []
  const world: World = {
    log,
    unique: (name) => `${name}-${randomBytes(6).toString('hex')}`,
    defer: (step) => void undo.push(step),
    async replica(options) {
      const replica = await database.open(options)
      undo.push(replica.close)
      return replica
    },
    async run(service) {
      undo.push(() => service.stop())
      await service.start()
      return service
    },
  }
  return {
    world,
    async close() {
      for (const step of undo.reverse()) await step()
    },
  }
}
