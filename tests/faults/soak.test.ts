import { expect, onTestFinished } from 'vitest'
import { findFaults } from '../support/checker.ts'
import { type Cluster, LEASE_SECONDS, test } from '../support/cluster.ts'
import { SOAK_SECONDS } from '../support/effort.ts'
import { type Gateway, isAlive, killProcess, requireProc, until } from '../support/gateway.ts'
import { endListeners } from '../support/listeners.ts'
import { makeOrganization } from '../support/organization.ts'
import { createRandom } from '../support/random.ts'
import { talk } from '../support/talk.ts'
import { startTcpProxy } from '../support/tcp-proxy.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('it is stopped')
requireProc()

const ENV = { WORKER_IDLE_SECONDS: '2', RUN_ATTEMPTS_MAX: '20' }
test.override('clusterOptions', { replicas: 3, env: ENV, postgres: 'own' })

/** In `npm test` just enough to see that all of it works together. */
const SECONDS = SOAK_SECONDS || 8
const CLIENTS = 12
const FROZEN_MS = 2 * LEASE_SECONDS * 1000

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
const running = ({ replicas }: Cluster) => replicas.filter((gateway) => !gateway.hasExited())

async function replace(cluster: Cluster, end: (gateway: Gateway) => Promise<unknown>) {
  const gateway = cluster.random.pick(running(cluster))
  const workers = gateway.workers()
  await end(gateway)
  cluster.balance()
  await until(() => !workers.some(isAlive), 'its workers are gone')
  await cluster.add(ENV)
}

/** What can go wrong, each to be done at any moment; all of it is over when it resolves. */
const FAULTS: Record<string, (cluster: Cluster) => Promise<unknown>> = {
  'kill -9 of a worker': async (cluster) => {
    const workers = running(cluster).flatMap((gateway) => gateway.workers())
    if (workers.length > 0) killProcess(cluster.random.pick(workers))
  },
  'kill -9 of a replica': (cluster) =>
    replace(cluster, (gateway) => {
      gateway.signal('SIGKILL')
      return gateway.exited
    }),
  'SIGTERM of a replica': (cluster) =>
    replace(cluster, async (gateway) => {
      gateway.signal('SIGTERM')
      expect(await gateway.exited).toEqual({ code: 0, signal: null })
    }),
  'a replica freezes past its lease': async (cluster) => {
    const frozen = cluster.random.pick(running(cluster))
    frozen.signal('SIGSTOP')
    cluster.balance({ without: [frozen] })
    cluster.proxy.giveUp(frozen.port)
    await sleep(FROZEN_MS)
    frozen.signal('SIGCONT')
    await frozen.ready()
    cluster.balance()
  },
  'the network cuts a replica off from Postgres': async (cluster) => {
    const network = await startTcpProxy(cluster.env.DATABASE_URL!)
    onTestFinished(network.close)
    const cut = await cluster.add({ ...ENV, DATABASE_URL: network.url })
    await sleep(1_000)
    network.freeze()
    cluster.balance({ without: [cut] })
    cluster.proxy.giveUp(cut.port)
    await sleep(FROZEN_MS)
    network.thaw()
    network.reset()
    await cut.ready()
    cluster.balance()
    await sleep(1_000)
    cluster.balance({ without: [cut] })
    cut.signal('SIGTERM')
    expect(await cut.exited).toEqual({ code: 0, signal: null })
  },
  'all connections through the balancer to one replica break': async (cluster) => {
    cluster.proxy.giveUp(cluster.random.pick(running(cluster)).port)
  },
  'Postgres crashes and comes back': async ({ postgres, random }) => {
    await postgres?.crash()
    await sleep(random.int(0, 3000))
    await postgres?.start()
  },
  'Postgres may only be read': async ({ postgres, random }) => {
    await postgres?.setReadOnly(true)
    await sleep(random.int(0, 3000))
    await postgres?.setReadOnly(false)
  },
  // 27: every two seconds in a long run
  'LISTEN connections end': async (cluster) => {
    for (let blow = 0; blow < 3; blow++) {
      await endListeners(cluster)
      await sleep(2_000)
    }
  },
}

// 1, 3, 4, 7, 8, 12, 13, 17, 18, 27, 35
test('whatever fails, in whatever order, every acknowledged message ends once, and every stream is whole', async ({
  cluster,
}) => {
  const other = await makeOrganization(cluster)
  let isOver = false
  const clients = Promise.all(
    Array.from({ length: CLIENTS }, (_, at) => {
      const token = at % 2 === 0 ? cluster.key : other.key
      return talk(cluster, { name: `soak-${at}`, goOn: () => !isOver, call: { token } })
    }),
  )
  // A client that gives up has found something; it is told at the end, with all the others.
  clients.catch(() => {
    isOver = true
  })
  const overAt = performance.now() + SECONDS * 1000
  const done: string[] = []
  let due: string[] = []
  // Numbers of its own: how many clients and balancer draw is decided by the machine, and a seed must give the same faults.
  const random = createRandom(cluster.random.seed)
  while (performance.now() < overAt && !isOver) {
    // Each once before any comes again: a short run meets as many as a long one, for its time.
    if (due.length === 0) due = random.shuffle(Object.keys(FAULTS))
    const name = due.pop()!
    process.stderr.write(`${new Date().toISOString()} ${name}\n`)
    await FAULTS[name]?.({ ...cluster, random })
    done.push(name)
    await Promise.all(running(cluster).map((gateway) => gateway.ready()))
    await sleep(random.int(0, 1000))
  }
  isOver = true
  const seen = await clients
  expect(findFaults(seen), done.join(', ')).toEqual([])
  await until(async () => {
    const rows = await cluster.database.sql`select 1 from runs where ended_at is null`
    return rows.length === 0
  }, 'no run is left')
  const again = await cluster.database.sql`
    select conversation_id, message_id from runs group by 1, 2 having count(*) > 1`
  expect(again).toEqual([])
})
