import { expect } from 'vitest'
import { findFaults } from '../support/checker.ts'
import { type Cluster, test } from '../support/cluster.ts'
import { effort } from '../support/effort.ts'
import { type Gateway, requireProc, until } from '../support/gateway.ts'
import { startLoad } from '../support/load.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('three replicas share it')
requireProc()

// The time in which a balancer notices that a replica is not ready any more, and most turns end.
test.override('clusterOptions', { replicas: 3, env: { SHUTDOWN_GRACE_SECONDS: '2', RUN_LEASE_SECONDS: '15' } })

/** What a balancer does that looks at every replica's readiness all the time, and is told which one will be stopped. */
function watchReadiness(cluster: Cluster) {
  let isOver = false
  const leaving = new Set<Gateway>()
  const watching = (async () => {
    while (!isOver) {
      const ready = await Promise.all(
        cluster.replicas.map(async (gateway) => {
          if (gateway.hasExited() || leaving.has(gateway)) return false
          const answer = await cluster.call('GET', '/health/ready', { at: gateway.url }).catch(() => undefined)
          return answer?.status === 200
        }),
      )
      cluster.proxy.setTargets(cluster.replicas.filter((_, at) => ready[at]).map(({ port }) => port))
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  })()
  return {
    /** What a preStop hook waits for: nobody is sent to this one any more. */
    async takeOut(gateway: Gateway, isQuiet: () => Promise<void>) {
      leaving.add(gateway)
      cluster.balance({ without: [...leaving] })
      await isQuiet()
    },
    stop: () => {
      isOver = true
      return watching
    },
  }
}

// 65
test('every replica is replaced under 200 requests a second and 50 streams: none fails, all turns end once, no process stays', async ({
  cluster,
}) => {
  const load = await startLoad(cluster, { perSecond: 200, conversations: 50, name: 'rolling' })
  const balancer = watchReadiness(cluster)
  await load.served(200)
  for (let round = 0; round < effort(1, 5); round++) {
    for (const gateway of cluster.replicas.filter((one) => !one.hasExited())) {
      await cluster.add()
      // More than are ever under way: whatever was sent to it has been answered since.
      await balancer.takeOut(gateway, () => load.served(100))
      const served = load.served(100)
      gateway.signal('SIGTERM')
      expect(await gateway.exited).toEqual({ code: 0, signal: null })
      await served
      // Waits for what it started, workers of workers too.
      await gateway.destroy()
      expect(gateway.lines().filter(({ level }) => level === 'error' || level === 'fatal')).toEqual([])
    }
  }
  await load.served(100)
  const seen = await load.stop()
  await balancer.stop()
  expect(findFaults(seen)).toEqual([])
  expect(load.faults.slice(0, 5)).toEqual([])
  // Not even a refusal in order: nobody had to ask twice.
  expect([...load.counts.keys()].sort()).toEqual(['message 200', 'question 200'])
  expect(seen.every(({ acknowledged }) => acknowledged.length > 0)).toBe(true)
  await until(async () => {
    const rows = await cluster.database.sql`select 1 from runs where ended_at is null`
    return rows.length === 0
  }, 'nothing is left to do')
})
