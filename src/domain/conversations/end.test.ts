import { expect } from 'vitest'
import { completesOf, createScene } from '../../../tests/support/scene.ts'
import { test } from '../../../tests/support/world.ts'
import { endConversation } from './end.ts'

test('an ended conversation has no unfinished run, and streams and workers are told', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  const waiting = await scene.post(run.conversationId)
  await scene.say(run, 'half')
  await endConversation(scene, { actor: scene.actor, conversationId: run.conversationId })

  expect(await scene.stateOf(run.id)).toBe('cancelled')
  expect(await scene.stateOf(waiting.runId)).toBe('cancelled')
  expect(scene.signals.conversationsEnded).toEqual([run.conversationId])
  expect(scene.signals.ended.sort()).toEqual([run.id, waiting.runId].sort())
  expect(completesOf(await scene.events(run.conversationId))).toHaveLength(2)
  expect(await scene.say(run, 'more')).toBe(false)
  expect(await scene.claim()).toEqual([])
})

test('it is ended once; after that it is unknown', async ({ world }) => {
  const scene = await createScene(world)
  const conversationId = await scene.open()
  const end = () => endConversation(scene, { actor: scene.actor, conversationId })

  const outcomes = await Promise.allSettled([end(), end(), end()])
  expect(outcomes.filter((outcome) => outcome.status === 'fulfilled')).toHaveLength(1)
  await expect(end()).rejects.toMatchObject({ code: 'not_found' })
  expect(scene.signals.conversationsEnded).toHaveLength(1)
})

test("another organization's conversation stays", async ({ world }) => {
  const [mine, theirs] = [await createScene(world), await createScene(world)]
  const run = await theirs.start(await theirs.open())

  const ending = endConversation(mine, { actor: mine.actor, conversationId: run.conversationId })
  await expect(ending).rejects.toMatchObject({ code: 'not_found' })
  expect(await theirs.stateOf(run.id)).toBe('running')
})
