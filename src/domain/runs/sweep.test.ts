import { expect } from 'vitest'
import { completesOf, createScene, type Scene, until } from '../../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../../tests/support/world.ts'
import type { Sql } from '../../db/client.ts'
import { releaseRun } from '../../queue/runs.ts'
import { createRunSweeper } from './sweep.ts'

requirePostgres('replicas sweep at the same time')

function sweeper(world: World, scene: Scene, sql: Sql = scene.sql) {
  const deps = { sql, log: world.log, signals: scene.signals }
  return world.run(createRunSweeper(deps, { everyMs: 20, attemptsMax: 2 }))
}

/** A run in its last attempt, whose holder is gone. */
async function startExhausted(scene: Scene, over: { webhookUrl?: string } = {}) {
  const run = await scene.start(await scene.open(), over)
  await releaseRun(scene.sql, run, { delayMs: 0, countAttempt: true })
  return scene.claimOne({ leaseMs: -1_000 })
}

test('a run whose holder died is put back and can be claimed', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open(), {}, { leaseMs: -1_000 })
  await sweeper(world, scene)

  await until(async () => expect(await scene.stateOf(run.id)).toBe('ready'))
  await until(() => expect(scene.signals.ready).toEqual([undefined]))
  expect(await scene.claimOne()).toMatchObject({ id: run.id, attempt: 2 })
})

test('a run whose time has come can be claimed', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  await releaseRun(scene.sql, run, { delayMs: 1, countAttempt: true })
  await sweeper(world, scene)

  await until(async () => expect(await scene.stateOf(run.id)).toBe('ready'))
})

test('a run that died as often as it may ends as failed, once, whoever sweeps', async ({ world }) => {
  const scene = await createScene(world)
  const run = await startExhausted(scene)
  const next = await scene.post(run.conversationId)
  await scene.say(run, 'half')
  for (let i = 0; i < 3; i++) await sweeper(world, scene, (await world.replica()).sql)

  await until(async () => expect(await scene.stateOf(next.runId)).toBe('ready'))
  const events = await scene.events(run.conversationId)
  expect(events.map((event) => event.name)).toEqual(['output', 'error', 'complete'])
  expect(JSON.parse(events[1]!.data)).toMatchObject({ code: 'attempts_exhausted', messageId: run.messageId })
  expect(completesOf(events)).toMatchObject([{ status: 'failed', finalText: 'half' }])
  const letters = await scene.sql`
    select queue, attempts, payload from dead_letters where organization_id = ${scene.organizationId}`
  expect(letters).toEqual([
    { queue: 'runs', attempts: 2, payload: { conversationId: run.conversationId, messageId: run.messageId } },
  ])
})

test('runs that cannot be ended do not keep the others from it', async ({ world }) => {
  const scene = await createScene(world)
  const [stuck, others] = [[] as string[], [] as string[]]
  for (let i = 0; i < 3; i++) {
    stuck.push((await startExhausted(scene, { webhookUrl: 'https://example.com/' })).id)
    others.push((await startExhausted(scene)).id)
  }
  await scene.sql`
    insert into outbox (organization_id, id, kind, target, payload)
    select ${scene.organizationId}, id, 'webhook', 'in the way', '{}' from unnest(${stuck}::uuid[]) id`
  await sweeper(world, scene)

  const statesOf = (ids: string[]) => Promise.all(ids.map(scene.stateOf))
  await until(async () => expect(await statesOf(others)).toEqual(['failed', 'failed', 'failed']))
  expect(await statesOf(stuck)).toEqual(['running', 'running', 'running'])
  await scene.sql`delete from outbox where organization_id = ${scene.organizationId}`
  await until(async () => expect(await statesOf(stuck)).toEqual(['failed', 'failed', 'failed']))
})
