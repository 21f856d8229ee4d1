import { expect } from 'vitest'
import { createLogger } from '../../src/lib/logger.ts'
import { test } from '../support/cluster.ts'
import { until } from '../support/gateway.ts'
import { createScene } from '../support/scene.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('a replica with a database of its own')

test.override('clusterOptions', { replicas: 0, env: {} })

// 8
test('a hundred turns that nobody listens to end all the same, and leave nothing waiting', async ({ cluster }) => {
  const gateway = await cluster.add()
  const { sql } = cluster.database
  for (let round = 0; round < 10; round++) {
    const conversations = await Promise.all(Array.from({ length: 10 }, () => cluster.open({ forceNew: true })))
    await Promise.all(conversations.map((one) => one.send('/echo unheard')))
  }
  await until(async () => {
    const [row] = await sql<{ n: number }[]>`select count(*)::int as n from runs where ended_at is not null`
    return row!.n === 100
  }, 'all have ended')
  const [left] = await sql`
    select (select count(*)::int from runs where state <> 'completed') as runs,
      (select count(*)::int from thread_response) as replies, (select count(*)::int from conversations where open_runs > 0) as busy`
  expect(left).toEqual({ runs: 0, replies: 0, busy: 0 })
  gateway.signal('SIGTERM')
  await gateway.exited
})

test('free workers take all that waits at once, however unevenly it is spread', async ({ cluster }) => {
  const { sql } = cluster.database
  const log = createLogger({ level: 'silent', pretty: false })
  // The database goes with the cluster, and all that is in it.
  const stage = { log, unique: (name: string) => `${name}-${cluster.random.int(0, 1e9)}`, defer() {} }
  // One ring only, and no poll that would find what it left.
  await cluster.add({ WORKERS_BUSY_MAX: '20', QUEUE_POLL_SECONDS: '60' })
  // Two organizations with one run each and one with eight: equal shares leave some of every claim unused.
  const scenes = await Promise.all([1, 2, 3].map(() => createScene(stage, sql)))
  const content = '/words 5000 /delay 20'
  for (const [at, count] of [1, 1, 8].entries()) {
    for (let n = 0; n < count; n++) {
      const scene = scenes[at]!
      await scene.post(await scene.open(), { content: { role: 'user', content }, text: content })
    }
  }
  await sql`select pg_notify('lobu_runs', '')`
  const running = async () => {
    const [row] = await sql<{ n: number }[]>`select count(*)::int as n from runs where state = 'running'`
    return row!.n
  }
  await until(async () => (await running()) === 10, 'all ten turns run')
})
