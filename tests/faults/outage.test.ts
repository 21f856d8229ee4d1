import { expect, onTestFinished } from 'vitest'
import { endsOf, findFaults } from '../support/checker.ts'
import { type Cluster, test } from '../support/cluster.ts'
import { effort } from '../support/effort.ts'
import { type Gateway, killProcess, requireProc, until } from '../support/gateway.ts'
import { holdTurn } from '../support/held-turn.ts'
import { type Load, startLoad } from '../support/load.ts'
import { talk } from '../support/talk.ts'
import { startTcpProxy } from '../support/tcp-proxy.ts'
import { wordsUpTo } from '../support/words.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('it is stopped')
requireProc()

test.override('clusterOptions', { replicas: 3, env: {}, postgres: 'own' })

const LOAD = { perSecond: 100, conversations: 30 }
/** How long a request may wait for a connection to the database; `src/db/gate.ts`, docs/limits.md. */
const POOL_WAIT_MS = 10_000
/** Refused while the database is away: more than may be under way at once, so that most were sent after it went. */
const REFUSED_MIN = 200
/** Tries of a turn, unless RUN_ATTEMPTS_MAX says otherwise. */
const TRIES_MAX = 3
/** Answers to a turn's giving back that never come. */
const LOST_TIMES = 3

/** All replicas run on, and say that they are ready. */
async function recovered({ replicas }: Cluster, before: number[]) {
  await Promise.all(replicas.map((gateway) => gateway.ready()))
  expect(replicas.filter((gateway) => !gateway.hasExited()).map(({ pid }) => pid)).toEqual(before)
}

/** Nobody was let wait for a connection and refused only then. */
function expectFast(load: Load) {
  expect(load.refusals().count).toBeGreaterThan(0)
  expect(load.refusals().slowestMs).toBeLessThan(POOL_WAIT_MS)
}

const status = async ({ call }: Cluster, { url: at }: Gateway, path: string) => (await call('GET', path, { at })).status

const statuses = (cluster: Cluster, path: string) =>
  Promise.all(cluster.replicas.map((gateway) => status(cluster, gateway, path)))

// 35
test('Postgres crashes again and again under load: nothing acknowledged is lost, and every refusal is a 503', async ({
  cluster,
}) => {
  const pids = cluster.replicas.map(({ pid }) => pid)
  const load = await startLoad(cluster, { ...LOAD, name: 'crash' })
  for (let round = 0; round < effort(2, 10); round++) {
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
  const before = load.refusals().count
  const overAt = performance.now() + effort(5, 30) * 1000
  while (performance.now() < overAt) {
    expect(await statuses(cluster, '/health')).toEqual([200, 200, 200])
    expect(await statuses(cluster, '/health/ready')).toEqual([503, 503, 503])
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  // Made and refused before it is back; whoever waited for the database would have no answer yet.
  await until(() => load.refusals().count >= before + REFUSED_MIN, `${REFUSED_MIN} requests are refused`)
  expectFast(load)
  await cluster.postgres?.start()
  await recovered(cluster, pids)
  await load.served(100)
  expect(findFaults(await load.stop())).toEqual([])
  expect(load.faults.slice(0, 5)).toEqual([])
  expect(load.counts.get('message 503')).toBeGreaterThan(0)
  expect(load.counts.get('question 503')).toBeGreaterThan(0)
  expectFast(load)
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
  // Nobody publishes while the turn is held, nor ends it; all that is done here is what the crash does.
  const { sql } = cluster.database
  const { follower, messageId, answer } = await holdTurn(cluster, async ({ conversation, runId }, tx) => {
    await until(async () => {
      const saved = await sql`select 1 from messages where run_id = ${runId} and role = 'assistant'`
      const waiting = await sql`select 1 from thread_response where conversation_id = ${conversation.id}`
      return saved.length > 0 && waiting.length > 0
    }, 'the turn waits for its end')
    const lost = await tx`delete from thread_response where conversation_id = ${conversation.id}`
    await tx`update runs set reply_batch = reply_batch - ${lost.count} where id = ${runId}`
  })
  await follower.completed(messageId)
  const seen = { name: 'it', acknowledged: [{ messageId, answer }], events: follower.events(), after: 0 }
  expect(findFaults([seen])).toEqual([])
  await follower.stop()
})

// 35: every try of a turn would be used up, and two more
test('connections that are lost while a turn is loaded cost it none of its tries', async ({ cluster }) => {
  const { sql } = cluster.database
  const conversation = await cluster.open()
  const follower = await conversation.follow({ lastEventId: 0 })
  const { messageId, runId } = await sql.begin(async (tx) => {
    // What a turn is loaded from waits behind this lock.
    await tx`lock table agents in access exclusive mode`
    const sent = await conversation.send('/words 5', { messageId: 'loaded-late' })
    const lost = new Set<number>()
    await until(async () => {
      const loading = await sql<{ pid: number }[]>`
        select pid from pg_stat_activity, pg_terminate_backend(pid)
        where wait_event_type = 'Lock' and query like '%"agentModel"%' and pid <> pg_backend_pid()`
      for (const { pid } of loading) lost.add(pid)
      return lost.size >= TRIES_MAX + 2
    }, 'its loading was cut off more often than it has tries')
    return sent
  })
  await follower.completed(messageId)
  const seen = { name: 'it', acknowledged: [{ messageId, answer: wordsUpTo(5) }], events: follower.events(), after: 0 }
  expect(findFaults([seen])).toEqual([])
  expect(await sql`select attempt from runs where id = ${runId}`).toEqual([{ attempt: 1 }])
  await follower.stop()
})

// 35
test('connections that are lost while a turn is given back do not leave it to its lease', async ({ cluster }) => {
  const { sql } = cluster.database
  const gateway = cluster.replicas[0]!
  await sql.begin(async (tx) => {
    await tx`create sequence given_back`
    // Ends its own session, as often as that.
    await tx.unsafe(`
      create function lose() returns trigger language plpgsql security definer as $$ begin
        if nextval('given_back') <= ${LOST_TIMES} then perform pg_terminate_backend(pg_backend_pid()); end if;
        return new;
      end $$`)
    await tx`
      create trigger lose before update on runs for each row
      when (old.state = 'running' and new.state in ('ready', 'delayed')) execute function lose()`
  })
  const turn = await startTurnAt(cluster, gateway)
  for (const pid of gateway.workers()) killProcess(pid)
  await turn.expectWhole()
  await sql`drop function lose cascade`
  const [asked] = await sql<{ times: number }[]>`select last_value as times from given_back`
  expect(asked!.times).toBeGreaterThan(LOST_TIMES)
  expect(gateway.lines().filter(({ msg }) => msg === 'run left to its lease')).toEqual([])
})

// 14, 17, 35
test('a replica that the network cuts off from Postgres loses its turns to the others, and takes part again', async ({
  cluster,
}) => {
  const network = await startTcpProxy(cluster.env.DATABASE_URL!)
  onTestFinished(network.close)
  const cut = await cluster.add({ DATABASE_URL: network.url })
  let isOver = false
  const clients = Promise.all(
    Array.from({ length: 8 }, (_, at) => talk(cluster, { name: `near-${at}`, goOn: () => !isOver })),
  )
  for (let round = 0; round < effort(1, 4); round++) {
    const turn = await startTurnAt(cluster, cut)
    network.freeze()
    expect(turn.isOver()).toBe(false)
    await until(async () => (await status(cluster, cut, '/health/ready')) === 503, 'it is not ready')
    expect(await status(cluster, cut, '/health')).toBe(200)
    cluster.balance({ without: [cut] })
    cluster.proxy.giveUp(cut.port)
    await turn.expectWhole()
    network.thaw()
    // A network that has forgotten the old connections says so to whoever sends on them, or stays silent for ever.
    if (round % 2 === 0) network.reset()
    await cut.ready()
    cluster.balance()
  }
  const again = await startTurnAt(cluster, cut)
  isOver = true
  expect(findFaults(await clients)).toEqual([])
  await again.expectWhole()
  await cut.destroy()
})

/** A turn that this replica has begun, and has seconds to go. */
async function startTurnAt(cluster: Cluster, { url: at }: Gateway) {
  const { replica } = (await cluster.call('GET', '/health/ready', { at })).body
  const conversation = await cluster.open()
  const follower = await conversation.follow({ lastEventId: 0 })
  const { messageId, runId } = await conversation.send('/words 150 /delay 20', { messageId: `at-${at}` }, { at })
  await follower.streamed(messageId, 1)
  expect(await cluster.database.sql`select replica from runs where id = ${runId}`).toEqual([{ replica }])
  return {
    isOver: () => endsOf(follower.events()).length > 0,
    async expectWhole() {
      await follower.completed(messageId)
      const acknowledged = [{ messageId, answer: wordsUpTo(150) }]
      expect(findFaults([{ name: 'it', acknowledged, events: follower.events(), after: 0 }])).toEqual([])
      await follower.stop()
    },
  }
}
