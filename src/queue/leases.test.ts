import { describe, expect } from 'vitest'
import { createScene, replyBatch, type Scene, USAGE } from '../../tests/support/scene.ts'
import { requirePostgres, test } from '../../tests/support/world.ts'
import { saveStep } from '../domain/runs/save-step.ts'
import { takeSteerMessages } from '../domain/runs/steer.ts'
import { type ClaimedRun, promoteDueRuns, recoverLapsedRuns, releaseRun, renewRuns } from './runs.ts'
import { insertReplies } from './thread-response.ts'

requirePostgres('several replicas write at the same time')

/** A run whose holder has let its lease lapse. */
async function startLapsed(scene: Scene): Promise<ClaimedRun> {
  return scene.start(await scene.open(), {}, { leaseMs: -1_000 })
}

async function rowsOf(scene: Scene, run: ClaimedRun) {
  const key = [scene.organizationId, run.conversationId] as const
  const { sql } = scene
  return {
    run: await sql`select * from runs where organization_id = ${key[0]} and conversation_id = ${key[1]} order by turn`,
    messages:
      await sql`select * from messages where organization_id = ${key[0]} and conversation_id = ${key[1]} order by id`,
    conversation: await sql`select * from conversations where organization_id = ${key[0]} and id = ${key[1]}`,
    replies: await sql`select * from thread_response where organization_id = ${key[0]} order by id`,
    log: await sql`select * from event_log where organization_id = ${key[0]} order by last_seq`,
  }
}

/** Everything that a holder may want to write. */
async function writeEverything(scene: Scene, run: ClaimedRun) {
  const { sql } = scene
  const batches = [1, 2, 3].map((batch) => replyBatch(run, batch, ['output {}']))
  return {
    renewed: (await renewRuns(sql, { replica: 'replica-1', runs: [run], leaseMs: 60_000 })).size,
    replies: (await Promise.all(batches.map((batch) => insertReplies(sql, [batch])))).map((stored) => stored.size),
    saved: await saveStep(sql, run, {
      step: 1,
      messages: [{ role: 'assistant', content: 'late' }],
      usage: USAGE,
      model: 'demo/demo',
      costMicros: 0,
    }),
    steered: await takeSteerMessages(sql, run),
    released: await releaseRun(sql, run, { delayMs: 0, countAttempt: true }),
    delayed: await releaseRun(sql, run, { delayMs: 1_000, countAttempt: false }),
    ended: (await scene.end(run, { status: 'failed', text: 'late', lastEvents: ['output {}'], deadLetter: true }))
      .ended,
  }
}

const NOTHING = {
  renewed: 0,
  replies: [0, 0, 0],
  saved: false,
  steered: [],
  released: false,
  delayed: false,
  ended: [],
}

describe('a lease', () => {
  test.for(['another replica', 'the same replica'])(
    'that lapsed is taken over by %s, and nothing of what the late holder writes counts',
    async (by, { world }) => {
      const scene = await createScene(world)
      const late = await startLapsed(scene)
      await scene.post(late.conversationId, { onBusy: 'steer' })
      await scene.say(late, 'before')
      await recoverLapsedRuns(scene.sql, { attemptsMax: 3 })
      const winner = await scene.claimOne({ replica: by === 'the same replica' ? 'replica-1' : 'replica-2' })
      expect(winner).toMatchObject({ id: late.id, fence: late.fence + 1, attempt: 2 })

      const before = await rowsOf(scene, late)
      expect(await writeEverything(scene, late)).toEqual(NOTHING)
      expect(await rowsOf(scene, late)).toEqual(before)
      expect(await scene.say(winner, 'and on')).toBe(true)
      expect((await scene.end(winner)).ended).toHaveLength(1)
    },
  )

  test('that lapsed leaves its holder without a say before anyone else has the run', async ({ world }) => {
    const scene = await createScene(world)
    const late = await startLapsed(scene)
    await scene.post(late.conversationId, { onBusy: 'steer' })
    await recoverLapsedRuns(scene.sql, { attemptsMax: 3 })

    const before = await rowsOf(scene, late)
    expect(await writeEverything(scene, late)).toEqual(NOTHING)
    expect(await rowsOf(scene, late)).toEqual(before)
  })

  test('does not outlive its run: after the end nothing of it can be written', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await scene.say(run, 'all of it')
    await scene.end(run)

    const before = await rowsOf(scene, run)
    expect(await writeEverything(scene, run)).toMatchObject({ ...NOTHING, replies: [1, 0, 0] })
    expect(await rowsOf(scene, run)).toEqual(before)
  })

  test('that is kept up is not taken over', async ({ world }) => {
    const scene = await createScene(world)
    const run = await startLapsed(scene)
    const held = await renewRuns(scene.sql, { replica: 'replica-1', runs: [run], leaseMs: 60_000 })

    expect(held).toEqual(new Set([run.id]))
    expect(await recoverLapsedRuns(scene.sql, { attemptsMax: 3 })).toEqual({ recovered: [], exhausted: [] })
    expect(await scene.claim()).toEqual([])
  })

  test('is renewed for the runs that are still held, and only for those', async ({ world }) => {
    const scene = await createScene(world)
    const [kept, ended] = [await scene.start(await scene.open()), await scene.start(await scene.open())]
    await scene.end(ended)

    const runs = [kept, ended]
    expect(await renewRuns(scene.sql, { replica: 'replica-1', runs, leaseMs: 60_000 })).toEqual(new Set([kept.id]))
    expect(await renewRuns(scene.sql, { replica: 'replica-2', runs, leaseMs: 60_000 })).toEqual(new Set())
  })

  test('is taken back by one of several replicas that sweep at once', async ({ world }) => {
    const scene = await createScene(world)
    const lapsed = await Promise.all(Array.from({ length: 10 }, () => startLapsed(scene)))
    const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))

    const sweeps = await Promise.all(replicas.map(({ sql }) => recoverLapsedRuns(sql, { attemptsMax: 3 })))
    const recovered = sweeps.flatMap((sweep) => sweep.recovered.map((run) => run.id))
    expect(recovered.sort()).toEqual(lapsed.map((run) => run.id).sort())
  })
})

describe('a run that is given back', () => {
  test('can be claimed at once, and a hand-over costs no attempt', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())

    expect(await releaseRun(scene.sql, run, { delayMs: 0, countAttempt: false })).toBe(true)
    const next = await scene.claimOne()
    expect(next).toMatchObject({ id: run.id, attempt: 1, fence: 2 })
    expect(await releaseRun(scene.sql, next, { delayMs: 0, countAttempt: true })).toBe(true)
    expect(await scene.claimOne()).toMatchObject({ id: run.id, attempt: 2, fence: 3 })
  })

  test('with a delay waits for it, and keeps its conversation waiting', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await scene.post(run.conversationId)

    await releaseRun(scene.sql, run, { delayMs: 3_600_000, countAttempt: true })
    await promoteDueRuns(scene.sql)
    expect(await scene.claim()).toEqual([])
    await scene.sql`update runs set due_at = now() where id = ${run.id}`
    expect(await promoteDueRuns(scene.sql)).toBe(1)
    expect(await scene.claimOne()).toMatchObject({ id: run.id, attempt: 2 })
  })

  test('takes the batches of its next claim from the first on', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await scene.say(run, 'one')
    await scene.say(run, 'two')
    await releaseRun(scene.sql, run, { delayMs: 0, countAttempt: false })

    expect(await scene.say(await scene.claimOne(), 'three')).toBe(true)
  })
})
