import type { ModelMessage } from 'ai'
import { expect } from 'vitest'
import { createScene, type Scene, USAGE } from '../../../tests/support/scene.ts'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import { loadHistory, pageHistory } from '../messages/history.ts'
import { saveStep, textOf } from './save-step.ts'
import { takeSteerMessages } from './steer.ts'

requirePostgres('steps are saved on several connections at once')

const ANSWER = { role: 'assistant', content: 'An answer.' } as const

function step(number: number, messages: ModelMessage[] = [ANSWER]) {
  return { step: number, messages, usage: USAGE, model: 'demo/demo', costMicros: 0 }
}

async function contentsOf(scene: Scene, conversationId: string) {
  const key = { organizationId: scene.organizationId, conversationId, turn: 1_000 }
  return (await loadHistory(scene.sql, key)).map((message) => message.content)
}

test('a step is part of the transcript, with what it cost', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  const call = { type: 'tool-call' as const, toolCallId: '1', toolName: 'look', input: {} }
  const result = { ...call, type: 'tool-result' as const, output: { type: 'text' as const, value: 'seen' } }
  const messages: ModelMessage[] = [
    { role: 'assistant', content: [{ type: 'text', text: 'Let me ' }, { type: 'text', text: 'look.' }, call] },
    { role: 'tool', content: [result] },
  ]
  expect(await saveStep(scene.sql, run, step(1, messages))).toBe(true)
  expect(await saveStep(scene.sql, run, step(2))).toBe(true)

  expect(await contentsOf(scene, run.conversationId)).toEqual([
    `text of ${run.messageId}`,
    ...messages.map((message) => message.content),
    'An answer.',
  ])
  const page = await pageHistory(scene.sql, { actor: scene.actor, conversationId: run.conversationId, limit: 10 })
  expect(page.messages.map(({ content, model, usage }) => ({ content, model, usage }))).toEqual([
    { content: `text of ${run.messageId}`, model: null, usage: null },
    { content: 'Let me look.', model: 'demo/demo', usage: USAGE },
    { content: 'An answer.', model: 'demo/demo', usage: USAGE },
  ])
})

test('the same step sent again, also at the same time, is saved once', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))

  const answers = await Promise.all(replicas.map(({ sql }) => saveStep(sql, run, step(1))))
  expect(answers).toEqual([true, true, true])
  expect(await contentsOf(scene, run.conversationId)).toEqual([`text of ${run.messageId}`, 'An answer.'])
})

test('a step that is saved while messages are taken into its turn is kept, and so are they', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  const steered = await scene.post(run.conversationId, { onBusy: 'steer' })
  const [holder, steerer, saver] = await Promise.all([world.replica(), world.replica(), world.replica()])

  const locked = await scene.hold(
    holder.sql,
    (tx) => tx`select 1 from messages where id = ${steered.messageId} and role = 'user' for update`,
  )
  const steering = takeSteerMessages(steerer.sql, run)
  await scene.lockWaiters(1)
  const saving = saveStep(saver.sql, run, step(1))
  await Promise.race([saving, scene.lockWaiters(2)])
  await locked.release()

  expect(await steering).toHaveLength(1)
  expect(await saving).toBe(true)
  expect((await contentsOf(scene, run.conversationId)).sort()).toEqual(
    ['An answer.', `text of ${run.messageId}`, `text of ${steered.messageId}`].sort(),
  )
})

test('any character that a model gives can be saved', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  const odd = 'nul \0 half \ud83d whole 🎉'
  const content = [
    { type: 'text' as const, text: odd },
    { type: 'tool-call' as const, toolCallId: odd, toolName: 'x', input: { [odd]: [odd] } },
  ]
  await saveStep(scene.sql, run, step(1, [{ role: 'assistant', content }]))

  const clean = 'nul \uFFFD half \uFFFD whole 🎉'
  expect((await contentsOf(scene, run.conversationId))[1]).toEqual([
    { type: 'text', text: clean },
    { type: 'tool-call', toolCallId: clean, toolName: 'x', input: { [clean]: [clean] } },
  ])
})

test('only text parts count as visible text', () => {
  expect(textOf({ role: 'assistant', content: 'plain' })).toBe('plain')
  const reasoning = { type: 'reasoning' as const, text: 'hidden' }
  expect(textOf({ role: 'assistant', content: [reasoning, { type: 'text', text: 'shown' }] })).toBe('shown')
})
