import { describe, expect } from 'vitest'
import { createScene, type Scene, USAGE } from '../../../tests/support/scene.ts'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import { type ClaimedRun, releaseRun } from '../../queue/runs.ts'
import { saveStep } from '../runs/save-step.ts'
import { rollUpUsage } from './roll-up.ts'

requirePostgres('replicas save, end and sum up on connections of their own')

const step = (number: number, over: { model?: string; costMicros?: number | null } = {}) => ({
  step: number,
  messages: [{ role: 'assistant' as const, content: `step ${number}` }],
  usage: USAGE,
  model: 'demo/demo',
  costMicros: 7,
  ...over,
})

const started = async (scene: Scene) => scene.start(await scene.open())

/** All that is counted for the organization, summed up or not. */
async function counted({ sql, organizationId }: Scene) {
  const [row] = await sql<Record<string, number>[]>`
    select sum(runs)::int as runs, sum(input)::int as input, sum(output)::int as output, sum(cost)::int as cost,
      sum(unpriced)::int as unpriced
    from (
      select runs, input_tokens as input, output_tokens as output, cost_micros as cost, unpriced_runs as unpriced
      from usage_days where organization_id = ${organizationId}
      union all
      select 0, input_tokens, output_tokens, cost_micros, 0 from usage_steps where organization_id = ${organizationId}
    ) u`
  return row!
}

const monthsOf = ({ sql, organizationId }: Scene) =>
  sql<{ tokens: number; costMicros: number }[]>`
    select tokens, cost_micros as "costMicros" from usage_months where organization_id = ${organizationId}`

/** What so many steps use. */
const steps = (count: number) => ({ input: 3 * count, output: 5 * count, cost: 7 * count })

/** Another test of the file may be summing up; then this one's turn comes a moment later. */
async function rollUp(scene: Scene) {
  const all: Awaited<ReturnType<typeof rollUpUsage>>['warnings'] = []
  for (;;) {
    all.push(...(await rollUpUsage(scene.sql)).warnings.filter((one) => one.organizationId === scene.organizationId))
    const left = await scene.sql`
      select 1 from usage_steps s where organization_id = ${scene.organizationId} and not exists (
        select 1 from runs r where r.organization_id = s.organization_id and r.id = s.run_id and r.ended_at is null)`
    if (left.length === 0) return all
  }
}

describe('what a run has used', () => {
  test('is counted once, also when steps and the end are written by many at once and again', async ({ world }) => {
    const scene = await createScene(world)
    const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))
    const run = await started(scene)
    for (const number of [1, 2]) {
      await Promise.all(replicas.map(({ sql }) => saveStep(sql, run, step(number))))
      await Promise.all(replicas.map(({ sql }) => rollUpUsage(sql)))
    }
    expect(await counted(scene)).toMatchObject({ runs: 0, ...steps(2) })
    await Promise.all(replicas.map(() => scene.end(run)))
    await Promise.all(replicas.map(({ sql }) => rollUpUsage(sql)))
    await rollUp(scene)
    // A step whose answer was lost is sent again, and is too late.
    expect(await saveStep(scene.sql, run, step(2))).toBe(false)
    await rollUp(scene)

    expect(await counted(scene)).toEqual({ runs: 1, unpriced: 0, ...steps(2) })
    expect(await monthsOf(scene)).toEqual([{ tokens: 16, costMicros: 14 }])
    expect(
      await scene.sql`
        select agent_id as agent, model, user_id as "user", day::text as day from usage_days
        where organization_id = ${scene.organizationId}`,
    ).toEqual([{ agent: 'assistant', model: 'demo/demo', user: 'user-1', day: new Date().toISOString().slice(0, 10) }])
  })

  test('includes the steps of attempts that were cut off, under one run', async ({ world }) => {
    const scene = await createScene(world)
    const first = await started(scene)
    await saveStep(scene.sql, first, step(1))
    await releaseRun(scene.sql, first, { delayMs: 0, countAttempt: true })
    await rollUpUsage(scene.sql)
    const second = await scene.claimOne()
    expect(await saveStep(scene.sql, first, step(2))).toBe(false)
    await saveStep(scene.sql, second, step(1))
    await scene.end(second, { status: 'failed' })
    await rollUp(scene)

    expect(await counted(scene)).toEqual({ runs: 1, unpriced: 0, ...steps(2) })
  })

  test('stays counted when its conversation is removed, before or after it was summed up', async ({ world }) => {
    const scene = await createScene(world)
    for (const early of [true, false]) {
      const run = await started(scene)
      await saveStep(scene.sql, run, step(1))
      await scene.end(run)
      if (early) await rollUp(scene)
      await scene.sql`delete from conversations where organization_id = ${scene.organizationId}`
      await rollUp(scene)
    }
    expect(await counted(scene)).toEqual({ runs: 2, unpriced: 0, ...steps(2) })
  })

  test('without a price is said so, and costs nothing', async ({ world }) => {
    const scene = await createScene(world)
    const run = await started(scene)
    await saveStep(scene.sql, run, step(1, { model: 'openai-compatible/x', costMicros: null }))
    await scene.end(run)
    await rollUp(scene)
    expect(await counted(scene)).toEqual({ runs: 1, unpriced: 1, ...steps(1), cost: 0 })
  })

  test('of an organization that is gone keeps nobody else waiting', async ({ world }) => {
    const [scene, gone] = [await createScene(world), await createScene(world)]
    for (const one of [scene, gone]) {
      const run = await started(one)
      await saveStep(one.sql, run, step(1))
      await one.end(run)
    }
    await scene.sql`delete from organizations where id = ${gone.organizationId}`
    await rollUp(scene)
    expect(await counted(scene)).toMatchObject({ runs: 1 })
    expect(await scene.sql`select 1 from usage_steps where organization_id = ${gone.organizationId}`).toEqual([])
  })
})

test('many turns of one agent, model, user and day are saved and ended at once while others are summed up', async ({
  world,
}) => {
  const scene = await createScene(world)
  const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))
  const runs: ClaimedRun[] = await Promise.all(Array.from({ length: 24 }, () => started(scene)))
  let open = true
  const summing = replicas.map(async ({ sql }) => {
    while (open) await rollUpUsage(sql)
  })
  await Promise.all(
    runs.map(async (run, at) => {
      for (const number of [1, 2, 3]) await saveStep(replicas[at % 3]!.sql, run, step(number))
      await scene.end(run)
    }),
  )
  open = false
  await Promise.all(summing)
  await rollUp(scene)
  expect(await counted(scene)).toEqual({ runs: 24, unpriced: 0, ...steps(72) })
  expect(await monthsOf(scene)).toEqual([{ tokens: 72 * 8, costMicros: 72 * 7 }])
})

test('saving a step waits for nobody who saves another of the same sums', async ({ world }) => {
  const scene = await createScene(world)
  const [holder, other] = [await world.replica(), await world.replica()]
  const [first, second] = [await started(scene), await started(scene)]
  const held = await scene.hold(holder.sql, (tx) => saveStep(asTransaction(tx), first, step(1)))
  expect(await saveStep(other.sql, second, step(1))).toBe(true)
  await held.release()
})

test('while one replica sums up, another leaves it to that one and does not wait', async ({ world }) => {
  const scene = await createScene(world)
  const [holder, other] = [await world.replica(), await world.replica()]
  const run = await started(scene)
  await saveStep(scene.sql, run, step(1))
  await scene.end(run)
  const held = await scene.hold(holder.sql, (tx) => rollUpUsage(asTransaction(tx)))
  const second = rollUpUsage(other.sql)
  expect(await Promise.race([second, scene.lockWaiters(1)])).toEqual({ summed: 0, warnings: [] })
  await held.release()
  expect(await counted(scene)).toEqual({ runs: 1, unpriced: 0, ...steps(1) })
})

/** A transaction that is left open, for a verb that would begin its own. */
function asTransaction(tx: Scene['sql']): Scene['sql'] {
  return Object.assign((...args: never[]) => (tx as never as (...args: never[]) => unknown)(...args), tx, {
    begin: (work: (inner: unknown) => unknown) => work(tx),
  }) as never
}

describe('a budget that is nearly used up', () => {
  test('is told once, and again when it was changed', async ({ world }) => {
    const scene = await createScene(world)
    const { sql, organizationId } = scene
    await sql`insert into organization_limits (organization_id, tokens_per_month) values (${organizationId}, 20)`
    const use = async () => {
      const run = await started(scene)
      await saveStep(sql, run, step(1))
      await scene.end(run)
      return rollUp(scene)
    }
    expect(await use()).toEqual([])
    expect(await use()).toMatchObject([{ organizationId, tokens: 16, tokensPerMonth: 20 }])
    expect(await use()).toEqual([])
    const entries = await sql`
      select actor_kind as kind, action, details from audit_log where organization_id = ${organizationId}`
    expect(entries).toMatchObject([{ kind: 'system', action: 'budget.nearly_used', details: { tokens: 16 } }])
  })
})
