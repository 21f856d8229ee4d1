import { expect } from 'vitest'
import { type Acknowledged, findFaults } from '../support/checker.ts'
import { type Cluster, type Conversation, test } from '../support/cluster.ts'
import { effort } from '../support/effort.ts'
import type { Follower } from '../support/follower.ts'
import { type Gateway, isAlive, killProcess, requireProc, until } from '../support/gateway.ts'
import { talk, untilAccepted } from '../support/talk.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('several replicas share it')
requireProc()

// Turns may be lost more often than anybody would lose them: how often is not what these tests are about.
const ENV = { WORKERS_WARM: '0', WORKER_IDLE_SECONDS: '1', RUN_ATTEMPTS_MAX: '20' }
test.override('clusterOptions', { replicas: 3, env: ENV })

const WORDS = 40
const WHOLE = Array.from({ length: WORDS }, (_, at) => `w${at + 1}`).join(' ')
const TURN_MS = 1_000
/** Points of a turn at which a round strikes, one turn for each. */
const POINTS = 20

interface Turn {
  conversation: Conversation
  follower: Follower
  acknowledged: Acknowledged[]
}

/**
 * Turns that began at random moments of the last second, so that what strikes them all at once strikes each at another
 * point: before its message was stored, before it was claimed, in the middle of a word, and behind its end.
 */
async function startTurns(cluster: Cluster): Promise<{ underWay: Promise<Turn>[] }> {
  const open = await Promise.all(
    Array.from({ length: POINTS }, async (_, at) => {
      const conversation = await untilAccepted(() => cluster.open())
      const follower = await untilAccepted(() => conversation.follow({ lastEventId: 0 }))
      return { conversation, follower, name: `turn-${at}` }
    }),
  )
  const underWay = open.map(async ({ conversation, follower, name }): Promise<Turn> => {
    await new Promise((resolve) => setTimeout(resolve, cluster.random.int(0, TURN_MS)))
    const messageId = `${name}-${conversation.id}`
    await untilAccepted(() => conversation.send(`/words ${WORDS} /delay 20`, { messageId }))
    return { conversation, follower, acknowledged: [{ messageId, answer: WHOLE }] }
  })
  await new Promise((resolve) => setTimeout(resolve, TURN_MS))
  return { underWay }
}

/** Every turn ended, once and whole, for the client that was there and for one that comes afterwards. */
async function expectWhole(cluster: Cluster, underWay: Promise<Turn>[]) {
  const turns = await Promise.all(underWay)
  await Promise.all(turns.map(({ follower, acknowledged }) => follower.completed(acknowledged[0]!.messageId)))
  const late = await Promise.all(
    turns.map(({ conversation }) => untilAccepted(() => conversation.follow({ lastEventId: 0 }))),
  )
  await Promise.all(late.map((follower, at) => follower.completed(turns[at]!.acknowledged[0]!.messageId)))
  const seen = turns.flatMap(({ conversation: { id }, follower, acknowledged }, at) =>
    [follower, late[at]!].map((one) => ({
      ...{ name: id, acknowledged, after: 0 },
      ...{ events: one.events(), faults: one.faults },
    })),
  )
  expect(findFaults(seen)).toEqual([])
  await Promise.all([...turns.map(({ follower }) => follower.stop()), ...late.map((follower) => follower.stop())])
  const unfinished = await cluster.database.sql`select id, state from runs where ended_at is null`
  expect(unfinished).toEqual([])
}

async function kill(cluster: Cluster, gateway: Gateway) {
  const workers = gateway.workers()
  gateway.signal('SIGKILL')
  await gateway.exited
  cluster.balance()
  await until(() => !workers.some(isAlive), 'its workers are gone')
}

const running = ({ replicas }: Cluster) => replicas.filter((gateway) => !gateway.hasExited())
const workersOf = (cluster: Cluster) => running(cluster).flatMap((gateway) => gateway.workers())
const nonEmpty = <T>(values: T[]) => (values.length > 0 ? values : undefined)

// 13, 16, 18
test('kill -9 of every worker, with turns at twenty random points, ends each turn once and whole', async ({
  cluster,
}) => {
  for (let round = 0; round < effort(1, 20); round++) {
    const { underWay } = await startTurns(cluster)
    const workers = await until(() => nonEmpty(workersOf(cluster)), 'there are workers')
    for (const worker of workers) killProcess(worker)
    await expectWhole(cluster, underWay)
  }
})

// 8, 13, 18, 21, 40
test('kill -9 of a replica, with turns at twenty random points, loses no message and repeats none', async ({
  cluster,
}) => {
  for (let round = 0; round < effort(1, 20); round++) {
    const { underWay } = await startTurns(cluster)
    await kill(cluster, cluster.random.pick(running(cluster)))
    await Promise.all([expectWhole(cluster, underWay), cluster.add(ENV)])
  }
})

// 8, 13, 18: the moment in which a run is claimed and nothing of it has been said
test('kill -9 of the replica that has just claimed the run leaves it to another', async ({ cluster }) => {
  for (let round = 0; round < effort(3, 40); round++) {
    const conversation = await untilAccepted(() => cluster.open())
    const victim = cluster.random.pick(running(cluster))
    const follower = await untilAccepted(() => conversation.follow({ lastEventId: 0 }))
    // The replica that takes a message claims its run in the same commit when it has a free worker.
    const messageId = `claimed-${round}`
    const post = () => conversation.post({ content: `/words ${WORDS} /delay 20`, messageId }, { at: victim.url })
    const answer = post().catch((error: Error) => error)
    await until(async () => {
      const [run] = await cluster.database.sql`select replica from runs where conversation_id = ${conversation.id}`
      return run?.replica
    }, 'its run is claimed')
    await new Promise((resolve) => setTimeout(resolve, cluster.random.int(0, 60)))
    await Promise.all([kill(cluster, victim), answer])
    // Acknowledged or not, it was stored; the client that asks again is given the same run.
    await untilAccepted(() => conversation.send(`/words ${WORDS} /delay 20`, { messageId }))
    const turn = { conversation, follower, acknowledged: [{ messageId, answer: WHOLE }] }
    await Promise.all([expectWhole(cluster, [Promise.resolve(turn)]), cluster.add(ENV)])
  }
})

// 13, 18, 20: another call would cost money and say everything twice
test('an answer that was saved whole before its replica died is ended as it is, not asked for again', async ({
  cluster,
}) => {
  const conversation = await untilAccepted(() => cluster.open())
  const follower = await untilAccepted(() => conversation.follow())
  const messageId = 'whole'
  // It claims the run in the same commit, and is known by that; its worker may be gone before it is looked for.
  const holder = cluster.random.pick(running(cluster))
  const content = `/words ${WORDS} /delay 20`
  const accepted = await untilAccepted(() => conversation.send(content, { messageId }, { at: holder.url }))
  await follower.streamed(messageId, 1)
  // Steps are saved without the lock that an end needs: with it held, the end cannot come between the two.
  let release = () => {}
  const held = cluster.database.sql.begin(async (tx) => {
    await tx`select 1 from conversations where id = ${conversation.id} for no key update`
    await new Promise<void>((resolve) => {
      release = resolve
    })
  })
  await until(async () => {
    const rows = await cluster.database
      .sql`select 1 from messages where run_id = ${accepted.runId} and role = 'assistant'`
    return rows.length > 0
  }, 'its only step is saved')
  await Promise.all([kill(cluster, holder).finally(() => release()), held])
  const turn = { conversation, follower, acknowledged: [{ messageId, answer: WHOLE }] }
  await Promise.all([expectWhole(cluster, [Promise.resolve(turn)]), cluster.add(ENV)])
})

// 14, 17, 31
test('a replica frozen in the middle of many turns changes none of them when it wakes up', async ({ cluster }) => {
  for (let round = 0; round < effort(1, 10); round++) {
    const { underWay } = await startTurns(cluster)
    const busy = () => nonEmpty(running(cluster).filter((gateway) => gateway.workers().length > 0))
    const frozen = cluster.random.pick(await until(busy, 'a replica has workers'))
    const workers = frozen.workers()
    frozen.signal('SIGSTOP')
    cluster.balance({ without: [frozen] })
    cluster.proxy.giveUp(frozen.port)
    const turns = await Promise.all(underWay)
    const half = cluster.random.shuffle(turns).slice(0, POINTS / 2)
    await Promise.all(half.map(({ follower, acknowledged }) => follower.completed(acknowledged[0]!.messageId)))
    frozen.signal('SIGCONT')
    await until(() => !workers.some(isAlive), 'the workers of the frozen replica are gone')
    await frozen.ready()
    cluster.balance()
    await expectWhole(cluster, underWay)
  }
})

// 1, 8, 13: conversation after conversation, with a replica lost every few turns
test('clients that talk on while replica after replica is killed notice nothing but a pause', async ({ cluster }) => {
  let isOver = false
  const clients = Promise.all(
    Array.from({ length: 8 }, (_, at) => talk(cluster, { name: `talker-${at}`, goOn: () => !isOver })),
  )
  for (let round = 0; round < effort(2, 20); round++) {
    await kill(cluster, cluster.random.pick(running(cluster)))
    await cluster.add(ENV)
  }
  isOver = true
  expect(findFaults(await clients)).toEqual([])
})
