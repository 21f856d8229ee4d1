/**
 * Model checking of the protocol by which replicas share conversations: accept, claim, speak, publish, end, cancel, sweep,
 * prune, follow and resume, as the product does them, on a real server.
 *
 * The replicas are connections whose statements are let through one at a time (`connection.ts`), so a schedule is a list of
 * choices: who goes on next, and whether a commit is reached and heard of. It depends on nothing else (`schedule.ts`), and
 * is had again from the same choices. Of small scenarios every schedule with few departures from the simplest one is run
 * (`explore.ts`); larger ones are drawn from seeds (`random.ts`). After each commit and in the end it is looked at whether
 * numbers, runs, replies, messages and readers are as they should be (`ledger.ts`, `judge.ts`).
 *
 * That it finds anything is shown by taking locks and conditions out of the product's SQL, one at a time (`mutants.ts`).
 */
import { describe, expect } from 'vitest'
import { exploreAll, follow } from '../../tests/support/protocol/explore.ts'
import { SABOTAGES } from '../../tests/support/protocol/mutants.ts'
import { failureOfSeed, runSeed } from '../../tests/support/protocol/random.ts'
import { SCENARIOS } from '../../tests/support/protocol/scenarios.ts'
import { runSchedule } from '../../tests/support/protocol/schedule.ts'
import { createStage, type Stage } from '../../tests/support/protocol/stage.ts'
import { test as base, requirePostgres } from '../../tests/support/world.ts'

requirePostgres('several transactions are open at once')

/** With `LOBU_PROTOCOL_SECONDS` there are more departures, and seeds for so long; `LOBU_TEST_SEED` is the first of them. */
const SECONDS = Number(process.env.LOBU_PROTOCOL_SECONDS) || 0
const FIRST_SEED = Number(process.env.LOBU_TEST_SEED) || 1
const SEEDS = 16
const SWITCHES = SECONDS > 0 ? 2 : 1
/** A bound on what hangs. Two departures make some ten thousand schedules. */
const TIMEOUT_MS = SECONDS > 0 ? 3_600_000 : 300_000
/** Connections are made anew before the driver does it by itself. */
const SEEDS_OF_CONNECTIONS = 5_000

const test = base.extend<{ $file: { stage: Stage } }>({
  stage: [
    async ({ database }, use) => {
      const stage = await createStage(database)
      await use(stage)
      await stage.close()
    },
    { scope: 'file' },
  ],
})

describe('in every schedule nothing is lost, doubled or out of order when', () => {
  test.for(Object.values(SCENARIOS))('$name', { timeout: TIMEOUT_MS }, async (scenario, { stage }) => {
    stage.mutation.use(null)
    const { schedules, failure } = await exploreAll(stage, scenario, { switches: SWITCHES })
    expect(failure).toBeNull()
    expect(schedules).toBeGreaterThan(5)
  })
})

test('long schedules of many operations keep every promise', {
  timeout: TIMEOUT_MS + SECONDS * 1000,
}, async ({ stage }) => {
  stage.mutation.use(null)
  const end = performance.now() + SECONDS * 1000
  const isOver = (count: number) => (SECONDS > 0 ? performance.now() > end : count >= SEEDS)
  let count = 0
  for (; !isOver(count); count++) {
    const seed = FIRST_SEED + count
    expect(await failureOfSeed(stage, seed), `LOBU_TEST_SEED=${seed} repeats it`).toBeNull()
    if (count % SEEDS_OF_CONNECTIONS === SEEDS_OF_CONNECTIONS - 1) await stage.renew()
  }
  if (SECONDS > 0) process.stderr.write(`protocol: ${count} seeds from ${FIRST_SEED} broke nothing\n`)
})

test('a schedule depends on nothing but its seed', { timeout: TIMEOUT_MS }, async ({ stage }) => {
  stage.mutation.use(null)
  const seeds = [1, 2, 3]
  const runAll = async (order: number[]) => {
    const traces = new Map<number, string[]>()
    for (const seed of order) traces.set(seed, (await runSeed(stage, seed)).trace)
    return seeds.map((seed) => traces.get(seed)!)
  }
  const first = await runAll(seeds)
  expect(await runAll(seeds.toReversed())).toEqual(first)
})

describe('a schedule is found that shows it, the same one each time, when', () => {
  test.for(SABOTAGES)(
    '$name',
    { timeout: TIMEOUT_MS },
    async ({ mutant, scenario, fault }, { stage, onTestFinished }) => {
      onTestFinished(() => stage.mutation.use(null))
      stage.mutation.use(mutant)
      const { failure, decisions } = await exploreAll(stage, scenario, { switches: 1, fault })
      expect(stage.mutation.hasMet(), 'a statement of the product was changed').toBe(true)
      expect(failure?.faults ?? []).toContainEqual(expect.stringMatching(fault))
      const again = await runSchedule(stage, scenario, follow(decisions))
      expect(again).toMatchObject({ faults: failure!.faults, trace: failure!.trace })
    },
  )
})
