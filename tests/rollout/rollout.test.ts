import { expect, onTestFinished } from 'vitest'
import { findFaults } from '../support/checker.ts'
import { type Cluster, test } from '../support/cluster.ts'
import { requireProc, runProgram, until } from '../support/gateway.ts'
import { findHelms } from '../support/helm.ts'
import { type Load, startLoad } from '../support/load.ts'
import { hasNginx, startNginx } from '../support/nginx.ts'
import { talk } from '../support/talk.ts'
import { requirePostgres } from '../support/world.ts'
import { keepPods } from './pods.ts'
import { readPodRules } from './rules.ts'

requirePostgres('three replicas share it')
requireProc()

/** The release that is replaced, built by `scripts/rollout.sh`; without one this build replaces itself. */
const FROM = process.env.LOBU_ROLLOUT_FROM || undefined
const PER_SECOND = 100
const WORD_MS = 100

const [helm] = await findHelms()
const rules = helm && (await readPodRules(helm))

test.override('clusterOptions', {
  replicas: rules?.replicas ?? 0,
  env: { RUN_LEASE_SECONDS: '15', ...rules?.env },
  build: FROM,
  front: startNginx,
})

/** Turns that end well within the grace, and others that go on after it, which must be handed over. */
function startLongTurns(cluster: Cluster, graceMs: number) {
  let isOver = false
  const clients = Promise.all(
    [0.4, 0.4, 1.6, 1.6].map((graces, at) =>
      talk(cluster, {
        name: `long-${at}`,
        goOn: () => !isOver,
        content: (marker) => `/echo ${marker} /words ${Math.round((graces * graceMs) / WORD_MS)} /delay ${WORD_MS}`,
        away: null,
      }),
    ),
  )
  // Looked at in the end; the test has its own end when something else fails before.
  clients.catch(() => {})
  return () => {
    isOver = true
    return clients
  }
}

/** What was answered since the last look: nothing but successes. */
function expectNoRefusal({ faults, counts }: Load, while_: string) {
  expect(faults.slice(0, 5), while_).toEqual([])
  expect([...counts.keys()].sort(), while_).toEqual(['message 200', 'question 200'])
}

// 33, 34, 65
test.skipIf(!hasNginx() || !rules)(
  'a release is rolled out and back again behind nginx under load: no request fails, no turn is cut',
  async ({ cluster }) => {
    const pods = keepPods(cluster, rules!)
    onTestFinished(() => void pods.stop())
    const load = await startLoad(cluster, { perSecond: PER_SECOND, conversations: 30, name: 'rollout' })
    const stopLongTurns = startLongTurns(cluster, rules!.graceMs)
    await load.served(3 * PER_SECOND)

    // What the hook does before the first pod is touched; the old release goes on with the new schema.
    const migrated = await runProgram(['migrate'], { ...cluster.env, SKIP_MIGRATIONS: '1' })
    expect(migrated.code, migrated.stdout).toBe(0)
    await load.served(3 * PER_SECOND)
    expectNoRefusal(load, 'the schema is migrated under the old release')

    const clean = Array.from({ length: rules!.replicas }, () => ({ code: 0, signal: null }))
    expect(await pods.rollTo(undefined)).toEqual(clean)
    await load.served(3 * PER_SECOND)
    expectNoRefusal(load, 'the new release is rolled out')

    expect(await pods.rollTo(FROM)).toEqual(clean)
    await load.served(3 * PER_SECOND)
    expectNoRefusal(load, 'it is rolled back')

    expect(await pods.stop()).toEqual([])
    const seen = [...(await load.stop()), ...(await stopLongTurns())]
    expect(findFaults(seen)).toEqual([])
    expect(seen.every(({ acknowledged }) => acknowledged.length > 0)).toBe(true)
    await until(async () => {
      const rows = await cluster.database.sql`select 1 from runs where ended_at is null`
      return rows.length === 0
    }, 'nothing is left to do')
    const turns = seen.reduce((sum, { acknowledged }) => sum + acknowledged.length, 0)
    process.stdout.write(`${turns} turns, answers: ${JSON.stringify(Object.fromEntries(load.counts))}\n`)
  },
)
