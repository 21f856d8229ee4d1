import { expect } from 'vitest'
import { findFaults, type Seen } from '../support/checker.ts'
import { type Cluster, test } from '../support/cluster.ts'
import { effort } from '../support/effort.ts'
import { type Gateway, requireProc, until } from '../support/gateway.ts'
import { startLoad } from '../support/load.ts'
import { wordsUpTo } from '../support/words.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('three replicas share it')
requireProc()

// A balancer that asks twice a second has noticed long before the wait is over, on a busy machine too. Without a grace
// nothing else gives it time, and every turn that runs is handed over: of the load, which says a word, hardly any; so each
// replica has one that outlasts its wait.
const ENV = { SHUTDOWN_WAIT_SECONDS: '4', SHUTDOWN_GRACE_SECONDS: '0', RUN_LEASE_SECONDS: '15' }
test.override('clusterOptions', { replicas: 3, env: ENV })

/** Ten seconds, of which four are the wait. */
const WORDS = 250

/** A turn that this replica has begun, and cannot end before it is handed over. */
async function startLongTurn(cluster: Cluster, gateway: Gateway) {
  const conversation = await cluster.open()
  const follower = await conversation.follow({ lastEventId: 0 })
  const sent = await conversation.send(`/words ${WORDS} /delay 40`, {}, { at: gateway.url })
  await follower.streamed(sent.messageId, 1)
  return { ...sent, follower, name: conversation.id }
}

type LongTurn = Awaited<ReturnType<typeof startLongTurn>>

/** Ended once and whole, as its first try, by another than who began it. */
async function finishLongTurn({ call }: Cluster, { follower, messageId, runId, name }: LongTurn): Promise<Seen> {
  await follower.completed(messageId)
  expect((await call('GET', `/api/v1/runs/${runId}`)).body).toMatchObject({ status: 'completed', attempt: 1 })
  const answer = wordsUpTo(WORDS)
  await follower.stop()
  const { faults } = follower
  return { name, acknowledged: [{ messageId, answer }], events: follower.events(), faults, after: 0 }
}

/** What a balancer does that knows nothing of replicas but their answers about readiness, and asks all the time. */
function watchReadiness({ proxy, replicas }: Cluster) {
  let isOver = false
  const ready = new Set<Gateway>()
  const balance = () => proxy.setTargets([...ready].map(({ port }) => port))
  async function watch(gateway: Gateway) {
    while (!isOver && !gateway.hasExited()) {
      const answer = await fetch(`${gateway.url}/health/ready`).catch(() => undefined)
      await answer?.text().catch(() => {})
      if (answer?.ok) ready.add(gateway)
      else ready.delete(gateway)
      balance()
      await new Promise((resolve) => setTimeout(resolve, 500))
    }
    ready.delete(gateway)
  }
  const watching = replicas.map(watch)
  return {
    add: (gateway: Gateway) => void watching.push(watch(gateway)),
    isSent: (gateway: Gateway) => ready.has(gateway),
    async stop() {
      isOver = true
      await Promise.all(watching)
    },
  }
}

// 65
test('every replica is replaced under 200 requests a second and 50 streams: none fails, all turns end once, no process stays', async ({
  cluster,
}) => {
  const balancer = watchReadiness(cluster)
  cluster.proxy.trustTargets()
  const load = await startLoad(cluster, { perSecond: 200, conversations: 50, name: 'rolling' })
  await load.served(200)
  const long: LongTurn[] = []
  for (let round = 0; round < effort(1, 5); round++) {
    for (const gateway of cluster.replicas.filter((one) => !one.hasExited())) {
      const next = await cluster.add()
      balancer.add(next)
      await until(() => balancer.isSent(next), 'the balancer sends to the new replica')
      const turn = await startLongTurn(cluster, gateway)
      long.push(turn)
      const served = load.served(100)
      gateway.signal('SIGTERM')
      expect(await gateway.exited).toEqual({ code: 0, signal: null })
      await served
      // Waits for what it started, workers of workers too.
      await gateway.destroy()
      const given = gateway.lines().filter(({ msg, outcome }) => msg === 'run' && outcome === 'handed over')
      expect(given.map(({ runId }) => runId)).toContain(turn.runId)
      expect(gateway.lines().filter(({ level }) => level === 'error' || level === 'fatal')).toEqual([])
    }
  }
  await load.served(100)
  const seen = await load.stop()
  const handedOver = await Promise.all(long.map((turn) => finishLongTurn(cluster, turn)))
  await balancer.stop()
  expect(findFaults([...seen, ...handedOver])).toEqual([])
  expect(load.faults.slice(0, 5)).toEqual([])
  // Not even a refusal in order: nobody had to ask twice.
  expect([...load.counts.keys()].sort()).toEqual(['message 200', 'question 200'])
  expect(seen.every(({ acknowledged }) => acknowledged.length > 0)).toBe(true)
  await until(async () => {
    const rows = await cluster.database.sql`select 1 from runs where ended_at is null`
    return rows.length === 0
  }, 'nothing is left to do')
})
