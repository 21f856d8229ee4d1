import { expect } from 'vitest'
import { type Acknowledged, endsOf, findFaults } from '../support/checker.ts'
import { type Cluster, type Conversation, test } from '../support/cluster.ts'
import { effort } from '../support/effort.ts'
import { type Follower, streamedText } from '../support/follower.ts'
import { type Gateway, isAlive, killProcess, requireProc, until } from '../support/gateway.ts'
import { type HeldTurn, holdTurn } from '../support/held-turn.ts'
import { talk, untilAccepted } from '../support/talk.ts'
import { wordsUpTo } from '../support/words.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('several replicas share it')
requireProc()

// Turns may be lost more often than anybody would lose them: how often is not what these tests are about.
const ENV = { WORKERS_WARM: '0', WORKER_IDLE_SECONDS: '1', RUN_ATTEMPTS_MAX: '20' }
test.override('clusterOptions', { replicas: 3, env: ENV })

/** Turns that are struck at once; of them, those that end before, and those that have not begun to speak. */
const [POINTS, SHORT, LATE] = [20, 4, 8]
const WORDS = 60

interface Turn {
  conversation: Conversation
  follower: Follower
  acknowledged: Acknowledged[]
}

/** A turn that may not have begun yet. */
interface Opened {
  conversation: Conversation
  follower: Follower
  messageId: string
}

/** Where a turn is: not in the database yet, stored or claimed but silent, in the middle of its words, or over. */
type Point = 'not stored' | 'stored' | 'claimed' | 'speaking' | 'ended'

/**
 * Turns at many points, so that what strikes them all at once strikes each at another one: before its message was stored,
 * before it was claimed, in the middle of a word, and behind its end. Looked at just before they are handed to the test.
 */
async function startTurns(cluster: Cluster): Promise<{ underWay: Promise<Turn>[] }> {
  const opened = await Promise.all(
    Array.from({ length: POINTS }, async (_, at): Promise<Opened> => {
      const conversation = await untilAccepted(() => cluster.open())
      const follower = await untilAccepted(() => conversation.follow({ lastEventId: 0 }))
      return { conversation, follower, messageId: `turn-${at}-${conversation.id}` }
    }),
  )
  const pause = () => new Promise((resolve) => setTimeout(resolve, cluster.random.int(0, 60)))
  async function start({ conversation, follower, messageId }: Opened, words: number, more = ''): Promise<Turn> {
    await pause()
    await untilAccepted(() => conversation.send(`${more}/words ${words} /delay 40`, { messageId }))
    return { conversation, follower, acknowledged: [{ messageId, answer: wordsUpTo(words) }] }
  }

  const [short, long, late] = [opened.slice(0, SHORT), opened.slice(SHORT, -LATE), opened.slice(-LATE)]
  const underWay = short.map((turn) => start(turn, 5))
  await until(() => short.some(isOver), 'a turn is over')
  underWay.push(...long.map((turn) => start(turn, WORDS)))
  const isEarly = (turn: Opened) => textOf(turn) !== '' && textOf(turn).split(' ').length < WORDS / 2
  await until(() => long.filter(isEarly).length > 2, 'turns are in the middle of their words')
  // They think before they speak: none of them has said a word when it is struck, however late this process is.
  underWay.push(...late.map((turn) => start(turn, WORDS / 2, '/think 500 ')))
  await pause()

  const points = await countPoints(cluster, opened)
  const said = JSON.stringify(points)
  expect(points['not stored'] + points.stored + points.claimed, said).toBeGreaterThan(1)
  expect(points.speaking, said).toBeGreaterThan(1)
  expect(points.ended, said).toBeGreaterThan(0)
  return { underWay }
}

const textOf = ({ follower, messageId }: Opened) => streamedText(follower.events(), messageId)
const isOver = ({ follower, messageId }: Opened) => endsOf(follower.events(), messageId).length > 0

async function countPoints({ database: { sql } }: Cluster, opened: Opened[]): Promise<Record<Point, number>> {
  const ids = opened.map(({ messageId }) => messageId)
  const rows = await sql<{ messageId: string; state: string; isEnded: boolean }[]>`
    select message_id as "messageId", state, ended_at is not null as "isEnded" from runs where message_id = any(${ids})`
  const points: Record<Point, number> = { 'not stored': 0, stored: 0, claimed: 0, speaking: 0, ended: 0 }
  for (const turn of opened) {
    const run = rows.find(({ messageId }) => messageId === turn.messageId)
    if (run?.isEnded) points.ended++
    else if (textOf(turn) !== '') points.speaking++
    else if (run?.state === 'running') points.claimed++
    else points[run ? 'stored' : 'not stored']++
  }
  return points
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
/** The replicas that have something to lose. */
const busy = (cluster: Cluster) => nonEmpty(running(cluster).filter((gateway) => gateway.workers().length > 0))
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
    await kill(cluster, cluster.random.pick(await until(() => busy(cluster), 'a replica has workers')))
    await Promise.all([expectWhole(cluster, underWay), cluster.add(ENV)])
  }
})

// 8, 13, 18: the moment in which a run is claimed and nothing of it has been said
test('kill -9 of the replica that has just claimed the run leaves it to another', async ({ cluster }) => {
  for (let round = 0; round < effort(2, 40); round++) {
    const conversation = await untilAccepted(() => cluster.open())
    const victim = cluster.random.pick(running(cluster))
    const follower = await untilAccepted(() => conversation.follow({ lastEventId: 0 }))
    // The replica that takes a message claims its run in the same commit when it has a free worker.
    const messageId = `claimed-${round}`
    const content = '/words 40 /delay 20'
    const post = () => conversation.post({ content, messageId }, { at: victim.url })
    const answer = post().catch((error: Error) => error)
    await until(async () => {
      const [run] = await cluster.database.sql`select replica from runs where conversation_id = ${conversation.id}`
      return run?.replica
    }, 'its run is claimed')
    await new Promise((resolve) => setTimeout(resolve, cluster.random.int(0, 60)))
    await Promise.all([kill(cluster, victim), answer])
    // Acknowledged or not, it was stored; the client that asks again is given the same run.
    await untilAccepted(() => conversation.send(content, { messageId }))
    const turn = { conversation, follower, acknowledged: [{ messageId, answer: wordsUpTo(40) }] }
    await Promise.all([expectWhole(cluster, [Promise.resolve(turn)]), cluster.add(ENV)])
  }
})

// 13, 18, 20: another call would cost money and say everything twice
test('an answer that was saved whole before its replica died is ended as it is, not asked for again', async ({
  cluster,
}) => {
  const { sql } = cluster.database
  // It claims the run in the same commit, and is known by that; its worker may be gone before it is looked for.
  const holder = cluster.random.pick(running(cluster))
  const saveAndKill = async ({ runId }: HeldTurn) => {
    await until(async () => {
      const rows = await sql`select 1 from messages where run_id = ${runId} and role = 'assistant'`
      return rows.length > 0
    }, 'its only step is saved')
    await kill(cluster, holder)
  }
  const { answer, runId, messageId, ...turn } = await holdTurn(cluster, saveAndKill, { at: holder.url })
  const whole = Promise.resolve({ ...turn, acknowledged: [{ messageId, answer }] })
  await Promise.all([expectWhole(cluster, [whole]), cluster.add(ENV)])
  expect(await sql`select 1 from runs where id = ${runId} and fence > 1`).toHaveLength(1)
  // Of each call there would be one.
  expect(await sql`select 1 from messages where run_id = ${runId} and role = 'assistant'`).toHaveLength(1)
})

// 14, 17, 31
test('a replica frozen in the middle of many turns changes none of them when it wakes up', async ({ cluster }) => {
  for (let round = 0; round < effort(1, 10); round++) {
    const { underWay } = await startTurns(cluster)
    const frozen = cluster.random.pick(await until(() => busy(cluster), 'a replica has workers'))
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
