import { describe, expect } from 'vitest'
import { explore, MOVES } from '../../tests/support/protocol/explore.ts'
import type { Mutant } from '../../tests/support/protocol/stepper.ts'
import { requirePostgres, test } from '../../tests/support/world.ts'

requirePostgres('several transactions are open at once')

/**
 * `LOBU_PROTOCOL_SECONDS` explores for longer, and then also the mutants below; `LOBU_TEST_SEED` begins elsewhere. In a run
 * without settings the schedules are the same every time.
 */
const ASKED = Number(process.env.LOBU_PROTOCOL_SECONDS) || 0
const SECONDS = ASKED || 5
const SEED = Number(process.env.LOBU_TEST_SEED) || 1
const MUTANT_SCHEDULES_MAX = 600

test('claims, replies, ends, readers and pruning keep their promises in whatever order they meet', {
  timeout: SECONDS * 1000 + 60_000,
}, async ({ world }) => {
  const end = performance.now() + SECONDS * 1000
  const { schedules, failure } = await explore(world, { seed: SEED, enough: () => performance.now() > end })
  expect(failure, `LOBU_TEST_SEED=${failure?.seed} repeats it`).toBeNull()
  expect(schedules).toBeGreaterThan(0)
})

/** A piece of one verb's SQL, and what stands there instead. */
function without(where: RegExp, piece: RegExp, instead = ''): Mutant {
  return (statement) => (where.test(statement) ? statement.replace(piece, instead) : statement)
}

const mutants = ASKED > 0 ? describe : null
mutants?.('the exploration finds the fault when', () => {
  test.for<[string, RegExp, Mutant]>([
    [
      'publishing does not lock the conversation',
      /number|duplicate key|deadlock/,
      without(/with head as materialized/, /for no key update skip locked/),
    ],
    [
      'ending does not lock the conversation',
      /number|duplicate key|deadlock/,
      without(/end_seq as "endSeq" from conversations/, /for no key update/),
    ],
    [
      'a run is ended whoever holds it',
      /lost the run/,
      without(
        /ended_at = now\(\), replica = null/,
        /r\.fence = (\S+) and r\.state/,
        '(r.fence = $1 or true) and r.state',
      ),
    ],
    ['a reply does not lock the run', /times|behind the end/, without(/put as \(/, /for no key update/)],
    [
      'a claim takes what another one is taking',
      /living holder/,
      without(/with recursive waiting/, /for update skip locked/),
    ],
  ])('%s', { timeout: 120_000 }, async ([, fault, mutant], { world }) => {
    const enough = (schedules: number) => schedules >= MUTANT_SCHEDULES_MAX
    const { failure } = await explore(world, { seed: 1, enough, mutant, fault })
    expect(failure).not.toBeNull()
    process.stdout.write(`${JSON.stringify(failure)}\n`)
    expect(failure!.moves.length).toBeLessThan(MOVES)
  })
})
