import { expect } from 'vitest'
import { createScene, USAGE } from '../../../tests/support/scene.ts'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import { releaseRun } from '../../queue/runs.ts'
import { loadHistory } from '../messages/history.ts'
import { loadTurn } from './begin.ts'
import { getRun } from './get.ts'
import { saveStep } from './save-step.ts'
import { takeSteerMessages } from './steer.ts'

requirePostgres('messages are taken in on several connections at once')

const answer = (number: number, content: string) => ({
  step: number,
  messages: [{ role: 'assistant' as const, content }],
  usage: USAGE,
  model: 'demo/demo',
  costMicros: 0,
})

test('messages are taken into the turn where the model reads them; others keep waiting', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  await saveStep(scene.sql, run, answer(1, 'step 1'))
  const steered = await scene.post(run.conversationId, { onBusy: 'steer' })
  const queued = await scene.post(run.conversationId)
  const later = await scene.post(run.conversationId, { onBusy: 'steer' })

  expect(await takeSteerMessages(scene.sql, run)).toEqual([
    { role: 'user', content: `text of ${steered.messageId}` },
    { role: 'user', content: `text of ${later.messageId}` },
  ])
  await saveStep(scene.sql, run, answer(2, 'step 2'))
  const history = await loadHistory(scene.sql, run)
  expect(history.map((message) => message.content)).toEqual([
    `text of ${run.messageId}`,
    'step 1',
    `text of ${steered.messageId}`,
    `text of ${later.messageId}`,
    'step 2',
  ])
  expect(await scene.stateOf(queued.runId)).toBe('queued')
  expect(await getRun(scene.sql, { actor: scene.actor, runId: steered.runId })).toMatchObject({ status: 'running' })
})

test('a message is taken in once, however often it is asked for', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  await scene.post(run.conversationId, { onBusy: 'steer' })
  const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))

  const answers = await Promise.all(replicas.map(({ sql }) => takeSteerMessages(sql, run)))
  expect(answers.flat()).toHaveLength(1)
})

test('what was taken in stays with the turn when another replica takes it over', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  const steered = await scene.post(run.conversationId, { onBusy: 'steer' })
  await takeSteerMessages(scene.sql, run)
  await releaseRun(scene.sql, run, { delayMs: 0, countAttempt: false })
  const next = await scene.claimOne()

  const { messages } = (await loadTurn(scene.sql, next))!
  expect(messages.map((message) => message.content)).toEqual([
    `text of ${run.messageId}`,
    `text of ${steered.messageId}`,
  ])
  const { ended } = await scene.end(next)
  expect(ended.map((one) => one.messageId).sort()).toEqual([run.messageId, steered.messageId].sort())
})

test('a message that nobody took in becomes a turn of its own', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  const steered = await scene.post(run.conversationId, { onBusy: 'steer' })
  await scene.end(run)
  expect((await scene.claimOne()).id).toBe(steered.runId)
})

test('a message to an idle conversation starts a turn', async ({ world }) => {
  const scene = await createScene(world)
  const conversation = await scene.open()
  const { runId } = await scene.post(conversation, { onBusy: 'steer' })
  expect((await scene.claimOne()).id).toBe(runId)
})
