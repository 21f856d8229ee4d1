import { expect } from 'vitest'
import { findFaults } from '../support/checker.ts'
import { type Cluster, test } from '../support/cluster.ts'
import { effort } from '../support/effort.ts'
import { requireProc, until } from '../support/gateway.ts'
import { startLoad } from '../support/load.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('it is stopped')
requireProc()

test.override('clusterOptions', { replicas: 3, env: {}, postgres: 'own' })

const LOAD = { perSecond: 100, conversations: 30 }

/** All replicas run on, and say that they are ready. */
async function recovered({ replicas }: Cluster, before: number[]) {
  await Promise.all(replicas.map((gateway) => gateway.ready()))
  expect(replicas.filter((gateway) => !gateway.hasExited()).map(({ pid }) => pid)).toEqual(before)
}

const statuses = ({ replicas, call }: Cluster, path: string) =>
  Promise.all(replicas.map(async ({ url: at }) => (await call('GET', path, { at })).status))

// 35
test('Postgres crashes again and again under load: nothing acknowledged is lost, and every refusal is a 503', async ({
  cluster,
}) => {
  const pids = cluster.replicas.map(({ pid }) => pid)
  const load = await startLoad(cluster, { ...LOAD, name: 'crash' })
  for (let round = 0; round < effort(3, 10); round++) {
    await load.served(100)
    await cluster.postgres?.crash()
    await cluster.postgres?.start()
    await recovered(cluster, pids)
  }
  await load.served(100)
  expect(findFaults(await load.stop())).toEqual([])
  expect(load.faults.slice(0, 5)).toEqual([])
})

// 35, 36
test('without Postgres for a while replicas live on, say that they are not ready, refuse fast, and come back', async ({
  cluster,
}) => {
  const pids = cluster.replicas.map(({ pid }) => pid)
  const load = await startLoad(cluster, { ...LOAD, name: 'away' })
  await load.served(100)
  await cluster.postgres?.crash()
  await until(
    async () => (await statuses(cluster, '/health/ready')).every((status) => status === 503),
    'all are not ready',
  )
  const overAt = performance.now() + effort(8, 30) * 1000
  while (performance.now() < overAt) {
    expect(await statuses(cluster, '/health')).toEqual([200, 200, 200])
    expect(await statuses(cluster, '/health/ready')).toEqual([503, 503, 503])
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  await cluster.postgres?.start()
  await recovered(cluster, pids)
  await load.served(100)
  expect(findFaults(await load.stop())).toEqual([])
  expect(load.faults.slice(0, 5)).toEqual([])
  expect(load.counts.get('message 503')).toBeGreaterThan(0)
})

// 35
test('a Postgres that may only be read refuses messages and loses none, and all go on when it can be written', async ({
  cluster,
}) => {
  const pids = cluster.replicas.map(({ pid }) => pid)
  const load = await startLoad(cluster, { ...LOAD, name: 'read-only' })
  await load.served(100)
  await cluster.postgres?.setReadOnly(true)
  await until(() => (load.counts.get('message 503') ?? 0) > effort(20, 200), 'messages are refused')
  await cluster.postgres?.setReadOnly(false)
  await recovered(cluster, pids)
  await load.served(100)
  expect(findFaults(await load.stop())).toEqual([])
  expect(load.faults.slice(0, 5)).toEqual([])
})

// 12, 35: replies are stored by commits that do not wait for the disk, so a crash may take what the replica knows as stored
test('words that a crash of Postgres took back are said again before the turn ends', async ({ cluster }) => {
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const { messageId, runId } = await conversation.send('/words 20 /delay 20')
  await follower.streamed(messageId, 1)
  const { sql } = cluster.database
  // Nobody publishes while this is held, nor ends the turn; all that is done here is what the crash does.
  await sql.begin(async (tx) => {
    await tx`select 1 from conversations where id = ${conversation.id} for no key update`
    await until(async () => {
      const saved = await sql`select 1 from messages where run_id = ${runId} and role = 'assistant'`
      const waiting = await sql`select 1 from thread_response where conversation_id = ${conversation.id}`
      return saved.length > 0 && waiting.length > 0
    }, 'the turn waits for its end')
    const lost = await tx`delete from thread_response where conversation_id = ${conversation.id}`
    await tx`update runs set reply_batch = reply_batch - ${lost.count} where id = ${runId}`
  })
  await follower.completed(messageId)
  const answer = Array.from({ length: 20 }, (_, at) => `w${at + 1}`).join(' ')
  const seen = { name: 'it', acknowledged: [{ messageId, answer }], events: follower.events(), after: 0 }
  expect(findFaults([seen])).toEqual([])
  await follower.stop()
})
