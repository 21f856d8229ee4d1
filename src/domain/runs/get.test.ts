import { expect } from 'vitest'
import { createScene, USAGE } from '../../../tests/support/scene.ts'
import { test } from '../../../tests/support/world.ts'
import type { Actor } from '../accounts/actor.ts'
import { cancelRuns } from './cancel.ts'
import { getRun } from './get.ts'

test('a run is shown from its acceptance to its end', async ({ world }) => {
  const scene = await createScene(world)
  const conversation = await scene.open()
  const { runId, messageId } = await scene.post(conversation, { traceparent: '00-trace' })
  const get = () => getRun(scene.sql, { actor: scene.actor, runId })

  expect(await get()).toMatchObject({
    runId,
    agentId: conversation,
    conversationId: conversation,
    messageId,
    status: 'queued',
    attempt: 0,
    startedAt: null,
    endedAt: null,
    result: null,
    traceparent: '00-trace',
  })
  const run = await scene.claimOne()
  expect(await get()).toMatchObject({ status: 'running', attempt: 1, endedAt: null })
  await scene.end(run, { text: 'done', usage: USAGE, model: 'demo/demo' })
  const ended = await get()
  expect(ended).toMatchObject({ status: 'completed', result: 'done', usage: USAGE, model: 'demo/demo', error: null })
  expect(ended.createdAt).toBeLessThanOrEqual(ended.startedAt!)
  expect(ended.startedAt).toBeLessThanOrEqual(ended.endedAt!)
})

test('a failed run says why, and a cancelled one what it had said', async ({ world }) => {
  const scene = await createScene(world)
  const failed = await scene.start(await scene.open())
  await scene.end(failed, { status: 'failed', error: { code: 'model_error', message: 'It broke' } })
  const cancelled = await scene.start(await scene.open())
  await scene.say(cancelled, 'half')
  await cancelRuns(scene, { organizationId: scene.organizationId, conversationId: cancelled.conversationId })

  expect(await getRun(scene.sql, { actor: scene.actor, runId: failed.id })).toMatchObject({
    status: 'failed',
    error: { code: 'model_error', message: 'It broke' },
  })
  expect(await getRun(scene.sql, { actor: scene.actor, runId: cancelled.id })).toMatchObject({
    status: 'cancelled',
    result: 'half',
  })
})

test('a run of another organization or conversation, and one that is none, is not found', async ({ world }) => {
  const [scene, foreign] = [await createScene(world), await createScene(world)]
  const run = await scene.start(await scene.open())
  const session = (conversationId: string): Actor => ({ ...scene.actor, kind: 'session', conversationId })

  const strangers = [foreign.actor, session(await scene.open())]
  for (const actor of strangers) {
    await expect(getRun(scene.sql, { actor, runId: run.id })).rejects.toMatchObject({ code: 'not_found' })
  }
  for (const runId of ['', 'no-uuid', '00000000-0000-4000-8000-000000000000', run.id.slice(1)]) {
    await expect(getRun(scene.sql, { actor: scene.actor, runId })).rejects.toMatchObject({ code: 'not_found' })
  }
  expect(await getRun(scene.sql, { actor: session(run.conversationId), runId: run.id })).toMatchObject({
    runId: run.id,
  })
})
