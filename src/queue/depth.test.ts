import { randomUUID } from 'node:crypto'
import { expect } from 'vitest'
import { createScene } from '../../tests/support/scene.ts'
import { test } from '../../tests/support/world.ts'
import type { Sql } from '../db/client.ts'
import { readQueueDepths } from './depth.ts'
import { promoteDueRuns, releaseRun } from './runs.ts'

const look = async (sql: Sql) =>
  Object.fromEntries((await readQueueDepths(sql)).map(({ queue, ...figures }) => [queue, figures]))

const age = (sql: Sql, table: string, column: string, seconds: number) =>
  sql`update ${sql(table)} set ${sql(column)} = now() - ${seconds} * interval '1 second'`

test('what waits is counted, and the oldest of it has its age', async ({ world }) => {
  const scene = await createScene(world)
  const { sql } = scene
  const nothing = { depth: 0, oldestSeconds: 0 }
  expect(await look(sql)).toEqual({ runs: nothing, thread_response: nothing, outbox: nothing })

  const run = await scene.start(await scene.open())
  await scene.say(run, 'one')
  await age(sql, 'thread_response', 'created_at', 40)
  const conversation = await scene.open()
  for (let i = 0; i < 3; i++) await scene.post(conversation)
  await scene.post(await scene.open())
  await age(sql, 'runs', 'created_at', 70)
  await sql`
    insert into outbox (organization_id, id, kind, target, payload, due_at)
    select ${scene.organizationId}, id, 'webhook', 'https://a.example/', '{}', now() - interval '20 seconds'
    from unnest(${[randomUUID(), randomUUID()]}::uuid[]) as id`
  await sql`
    insert into outbox (organization_id, id, kind, target, payload, due_at, ready)
    values (${scene.organizationId}, ${randomUUID()}, 'webhook', 'https://a.example/', '{}', now() - interval '1 day', false)`

  const seen = await look(sql)
  // Of a conversation's messages only the first can be taken; a call that waits for its next try cannot be made.
  expect(seen).toMatchObject({ runs: { depth: 2 }, thread_response: { depth: 1 }, outbox: { depth: 2 } })
  expect(seen.runs!.oldestSeconds).toBeGreaterThanOrEqual(70)
  expect(seen.thread_response!.oldestSeconds).toBeGreaterThanOrEqual(40)
  expect(seen.outbox!.oldestSeconds).toBeGreaterThanOrEqual(20)
  expect(seen.outbox!.oldestSeconds).toBeLessThan(3_600)
})

test('a run waits from when it could be claimed, not from when it was accepted', async ({ world }) => {
  const scene = await createScene(world)
  const { sql } = scene
  const conversation = await scene.open()
  const first = await scene.start(conversation)
  await scene.post(conversation)
  await age(sql, 'runs', 'created_at', 3_600)
  await scene.end(first)
  expect((await look(sql)).runs!.oldestSeconds).toBeLessThan(1_800)
  const second = await scene.claimOne()
  expect(second.waitedMs).toBeLessThan(1_800_000)
  expect(second.waitedMs).toBeGreaterThanOrEqual(0)

  // Given back and claimed again, at once and after a pause.
  await releaseRun(sql, second, { delayMs: 0, countAttempt: false })
  expect((await scene.claimOne()).waitedMs).toBeLessThan(1_800_000)
})

test('one that has waited since it was accepted has waited so long', async ({ world }) => {
  const scene = await createScene(world)
  await scene.post(await scene.open())
  await age(scene.sql, 'runs', 'created_at', 90)
  const run = await scene.claimOne()
  expect(run.waitedMs).toBeGreaterThanOrEqual(90_000)
  await releaseRun(scene.sql, run, { delayMs: 1, countAttempt: true })
  await age(scene.sql, 'runs', 'due_at', 1)
  await promoteDueRuns(scene.sql)
  expect((await scene.claimOne()).waitedMs).toBeLessThan(60_000)
})
