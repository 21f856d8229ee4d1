import { expect } from 'vitest'
import { buryWebhook, giveUp } from '../../../tests/support/dead-letters.ts'
import { createScene, recordSignals, type Scene } from '../../../tests/support/scene.ts'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import { claimCalls } from '../../queue/outbox.ts'
import type { Actor } from '../accounts/actor.ts'
import { listDeadLetters } from './list.ts'
import { takeDeadLetter } from './remove.ts'
import { replayDeadLetter } from './replay.ts'

requirePostgres('two replays meet in the database')

const OPTIONS = { replica: 'replica-1', leaseMs: 60_000, depthMax: 2, organizationMax: 100, workerIdleMs: 60_000 }

const replay = (scene: Scene, id: string, actor: Actor = scene.actor) =>
  replayDeadLetter({ sql: scene.sql, signals: scene.signals }, { actor, id }, OPTIONS)

const HOOK = 'https://receiver.example/hook'

test('two replays at once of a given-up turn make one new run, which asks the same', async ({ world }) => {
  const scene = await createScene(world)
  const { conversation, run } = await giveUp(scene)
  const outcomes = await Promise.allSettled([replay(scene, run.id), replay(scene, run.id), replay(scene, run.id)])

  expect(outcomes.filter((one) => one.status === 'fulfilled')).toHaveLength(1)
  for (const one of outcomes) if (one.status === 'rejected') expect(one.reason).toMatchObject({ code: 'not_found' })
  const again = await scene.claimOne()
  expect(again.conversationId).toBe(conversation)
  expect(again.id).not.toBe(run.id)
  const asked = await scene.sql<{ text: string }[]>`
    select text from messages where organization_id = ${scene.organizationId} and role = 'user' order by turn`
  expect(asked).toHaveLength(2)
  expect(asked[1]).toEqual(asked[0])
  expect((await scene.end(again)).ended).toHaveLength(1)
})

test('a replay that cannot be accepted leaves the dead letter where it is, and rings nobody', async ({ world }) => {
  const scene = await createScene(world)
  const { conversation, run } = await giveUp(scene)
  await scene.start(conversation)
  await scene.post(conversation)
  const signals = recordSignals()
  const full = replayDeadLetter({ sql: scene.sql, signals }, { actor: scene.actor, id: run.id }, OPTIONS)
  await expect(full).rejects.toMatchObject({ code: 'queue_full' })
  expect(signals.ready).toEqual([])
  expect((await listDeadLetters(scene.sql, { actor: scene.actor, limit: 50 })).deadLetters).toHaveLength(1)
})

test('a turn of a conversation that is over cannot be replayed', async ({ world }) => {
  const scene = await createScene(world)
  const { conversation, run } = await giveUp(scene)
  await scene.sql`
    update conversations set status = 'ended' where organization_id = ${scene.organizationId} and id = ${conversation}`
  await expect(replay(scene, run.id)).rejects.toMatchObject({ code: 'conflict' })
})

test('a webhook is owed again once, under the id that its receiver knows', async ({ world }) => {
  const scene = await createScene(world)
  const { call, claim } = await buryWebhook(scene, { url: HOOK, attempts: 9 })
  const { deadLetters } = await listDeadLetters(scene.sql, { actor: scene.actor, limit: 50 })
  const letter = deadLetters.find((one) => one.queue === 'webhook')!
  expect(letter).toMatchObject({ target: 'https://receiver.example/hook', attempts: 9, error: 'status: 500' })
  const outcomes = await Promise.allSettled([replay(scene, letter.id), replay(scene, letter.id)])

  expect(outcomes.filter((one) => one.status === 'fulfilled')).toHaveLength(1)
  const owed = await claimCalls(scene.sql, { ...claim, lanes: [{ ...claim.lanes[0]!, count: 9 }] })
  expect(owed).toMatchObject([{ id: call.id, payload: call.payload, attempt: 1 }])
})

test('pages hold each dead letter once; another organization sees none of them and touches none', async ({ world }) => {
  const scene = await createScene(world)
  const other = await createScene(world)
  const ids: string[] = []
  for (let n = 0; n < 5; n++) ids.push((await giveUp(scene)).run.id)

  const seen: string[] = []
  for (let cursor: string | undefined; ; ) {
    const page = await listDeadLetters(scene.sql, { actor: scene.actor, limit: 2, cursor })
    seen.push(...page.deadLetters.map((letter) => letter.id))
    if (page.nextCursor === null) break
    cursor = page.nextCursor
  }
  expect(seen).toEqual(ids.toSorted())
  expect((await listDeadLetters(other.sql, { actor: other.actor, limit: 9 })).deadLetters).toEqual([])
  await expect(replay(other, ids[0]!)).rejects.toMatchObject({ code: 'not_found' })
  await expect(takeDeadLetter(other.sql, { actor: other.actor, id: ids[0]! })).rejects.toMatchObject({
    code: 'not_found',
  })
})

test('a removed dead letter is gone; a session token may not touch any', async ({ world }) => {
  const scene = await createScene(world)
  const { conversation, run } = await giveUp(scene)
  const session: Actor = { ...scene.actor, kind: 'session', conversationId: conversation }
  await expect(replay(scene, run.id, session)).rejects.toMatchObject({ code: 'forbidden' })
  await takeDeadLetter(scene.sql, { actor: scene.actor, id: run.id })
  await expect(replay(scene, run.id)).rejects.toMatchObject({ code: 'not_found' })
})
