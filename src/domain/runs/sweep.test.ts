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

test('a run that cannot be ended does not keep the others from it', async ({ world }) => {
  const scene = await createScene(world)
  const stuck = await startExhausted(scene, { webhookUrl: 'https://example.com/' })
  await scene.sql`
    insert into outbox (organization_id, id, kind, target, payload)
    values (${scene.organizationId}, ${stuck.id}, 'webhook', 'in the way', '{}')`
  const others = [await startExhausted(scene), await startExhausted(scene)]
  await sweeper(world, scene)

  for (const run of others) await until(async () => expect(await scene.stateOf(run.id)).toBe('failed'))
  expect(await scene.stateOf(stuck.id)).toBe('running')
  await scene.sql`delete from outbox where organization_id = ${scene.organizationId}`
  await until(async () => expect(await scene.stateOf(stuck.id)).toBe('failed'))
})
