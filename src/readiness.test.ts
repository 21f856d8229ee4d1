import { afterEach, beforeEach, expect, vi } from 'vitest'
import { test, type World } from '../tests/support/world.ts'
import type { Database } from './db/client.ts'
import { createLoop } from './lib/loop.ts'
import { createReadiness, type Phase, type ReadinessDeps } from './readiness.ts'

// Only the clock by which ages are measured; timers and the database go on as always.
beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }))
afterEach(() => void vi.useRealTimers())

test('a replica whose parts all work is ready, and says what it is', async ({ world }) => {
  const { look } = await createStage(world)
  const report = await look()
  expect(report).toMatchObject({
    ready: true,
    service: 'lobu',
    subsystems: {
      gateway: { state: 'ok' },
      database: { state: 'ok' },
      schema: { state: 'ok', detail: '3 migrations' },
      queue: { state: 'ok' },
      workers: { state: 'ok', detail: 'isolation: advisory' },
      streams: { state: 'ok', detail: '7 open' },
    },
    schemaVersion: 3,
    listening: false,
    workers: { busy: 1 },
    loopAgesMs: { steady: expect.any(Number) },
  })
  expect(report.database).toMatchObject({
    kind: expect.stringMatching(/postgres|embedded/),
    vector: expect.any(String),
  })
})

test('a loop whose passes hang makes it not ready, and is named', async ({ world }) => {
  const stage = await createStage(world)
  await stage.addLoop('hanging', () => new Promise(() => {}))
  expect(await stage.look()).toMatchObject({ ready: true })
  vi.advanceTimersByTime(60_000)
  await stage.passOf('steady')
  expect(await stage.look()).toMatchObject({
    ready: false,
    subsystems: { queue: { state: 'down', detail: 'no recent pass of hanging' } },
    loopAgesMs: { hanging: expect.any(Number) },
  })
})

test('retention that fails is seen with its age and takes nobody out of service', async ({ world }) => {
  const stage = await createStage(world)
  const fail = () => Promise.reject(new Error('locked'))
  await stage.addLoop('retention: audit', fail, stage.retention)
  expect(await stage.look()).toMatchObject({ ready: true, subsystems: { retention: { state: 'ok' } } })
  vi.advanceTimersByTime(60_000)
  await stage.passOf('steady')
  const report = await stage.look()
  expect(report).toMatchObject({
    ready: true,
    subsystems: { retention: { state: 'degraded', detail: 'no recent pass of retention: audit' } },
  })
  expect((report.loopAgesMs as Record<string, number>)['retention: audit']).toBeGreaterThanOrEqual(60_000)
})

test('a loop whose passes throw makes it not ready until one succeeds', async ({ world }) => {
  const stage = await createStage(world)
  let failing = true
  await stage.addLoop('failing', async () => {
    if (failing) throw new Error('away')
  })
  vi.advanceTimersByTime(60_000)
  await stage.passOf('steady')
  expect(await stage.look()).toMatchObject({
    ready: false,
    subsystems: { queue: { detail: 'no recent pass of failing' } },
  })
  failing = false
  await stage.passOf('failing')
  expect(await stage.look()).toMatchObject({ ready: true })
})

test('a database that is gone makes it not ready', async ({ world }) => {
  const stage = await createStage(world)
  await stage.db.close()
  expect(await stage.look()).toMatchObject({
    ready: false,
    subsystems: { database: { state: 'down', detail: 'does not answer' } },
  })
})

test('a database that does not answer is down within a bound: a probe never hangs', async ({ world }) => {
  const stage = await createStage(world, (db) => ({
    ...db,
    ping: (ms) => new Promise((_, reject) => setTimeout(reject, ms, new Error('late'))),
    describe: () => new Promise(() => {}),
  }))
  expect(await stage.look()).toMatchObject({
    ready: false,
    subsystems: { database: { state: 'down' }, queue: { state: 'ok' } },
    database: { version: null },
  })
})

test('a schema that is behind makes it not ready and says what to do; one that was not looked at yet, too', async ({
  world,
}) => {
  const stage = await createStage(world)
  stage.state.schema = { applied: 1, known: 3, behind: ['0001_more', '0002_most'] }
  const detail = 'lacks 0001_more, 0002_most: run "lobu migrate"'
  expect(await stage.look()).toMatchObject({ ready: false, subsystems: { schema: { state: 'down', detail } } })
  stage.state.schema = null
  expect(await stage.look()).toMatchObject({
    ready: false,
    schemaVersion: null,
    subsystems: { schema: { state: 'starting' } },
  })
})

test.for(['starting', 'draining'] as const)(
  'a replica that is %s is not ready, whatever its loops do',
  async (phase, { world }) => {
    const stage = await createStage(world)
    stage.state.phase = phase
    vi.advanceTimersByTime(60_000)
    expect(await stage.look()).toMatchObject({
      ready: false,
      subsystems: { gateway: { state: phase }, queue: { state: phase } },
    })
  },
)

// 69
test('a replica that cannot start workers is not ready and says why; nor is one whose first worker is not there yet', async ({
  world,
}) => {
  const stage = await createStage(world)
  stage.state.workers.fault = 'a worker ended with 1 before it was ready'
  const detail = 'cannot be started: a worker ended with 1 before it was ready'
  expect(await stage.look()).toMatchObject({ ready: false, subsystems: { workers: { state: 'down', detail } } })
  stage.state.workers = { fault: null, starting: true }
  expect(await stage.look()).toMatchObject({ ready: false, subsystems: { workers: { state: 'starting' } } })
})

test('draining shows at the very next probe', async ({ world }) => {
  const stage = await createStage(world)
  expect(await stage.readiness()).toMatchObject({ ready: true })
  stage.state.phase = 'draining'
  expect(await stage.readiness()).toMatchObject({ ready: false })
})

test('many probes share one look', async ({ world }) => {
  const ping = vi.fn()
  const stage = await createStage(world, (db) => ({
    ...db,
    async ping(ms) {
      ping()
      await db.ping(ms)
    },
  }))
  await Promise.all(Array.from({ length: 100 }, () => stage.readiness()))
  expect(ping).toHaveBeenCalledTimes(1)
  await stage.look()
  expect(ping).toHaveBeenCalledTimes(2)
})

async function createStage(world: World, wrap: (db: Database) => Database = (db) => db) {
  const db = await world.replica()
  const state: {
    phase: Phase
    schema: ReturnType<ReadinessDeps['schema']>
    workers: { fault: string | null; starting: boolean }
  } = {
    phase: 'ok',
    workers: { fault: null, starting: false },
    schema: { applied: 3, known: 3, behind: [] },
  }
  const loops: ReadinessDeps['loops'] = []
  const retention: ReadinessDeps['loops'] = []
  const readiness = createReadiness({
    db: wrap(db),
    phase: () => state.phase,
    schema: () => state.schema,
    wallFault: () => null,
    publicUrlFault: null,
    loops,
    retention,
    workers: () => ({ workers: 2, busy: 1, warm: 1, max: 8, busyMax: 8, isolation: 'advisory', ...state.workers }),
    streams: () => 7,
    facts: { service: 'lobu' },
  })
  const stage = {
    db,
    state,
    retention,
    readiness,
    async addLoop(name: string, pass: () => Promise<void>, to = loops) {
      const loop = createLoop({ log: world.log }, { name, everyMs: 5_000, pass })
      await loop.start()
      to.push(loop)
      if (name !== 'hanging') world.defer(loop.stop)
    },
    /** Waits for a good pass at the present (standing) time. */
    async passOf(name: string) {
      const loop = loops.find((one) => one.name === name)!
      loop.ring()
      while (loop.ageMs() > 0) await new Promise((resolve) => setImmediate(resolve))
    },
    /** A look that nobody has had before. */
    look() {
      vi.advanceTimersByTime(1_000)
      return readiness()
    },
  }
  await stage.addLoop('steady', async () => {})
  return stage
}
