import { expect } from 'vitest'
import { createScene } from '../../../tests/support/scene.ts'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import { publishReplies } from '../../queue/thread-response.ts'
import { readStreamedText } from './turn-text.ts'

requirePostgres('a publisher works while the text is read')

test('text is found once while a publisher moves it from the queue to the log', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  await scene.say(run, 'one ')
  await scene.publish()
  await scene.say(run, 'two ', 'three')
  const publisher = await world.replica()

  // The lock stops the reader at the queue; the publisher moves the rows meanwhile.
  const moving = await scene.hold(publisher.sql, (tx) => tx`lock table thread_response in access exclusive mode`)
  const text = readStreamedText(scene.sql, { ...run, afterSeq: 0 })
  await scene.lockWaiters(1)
  await publishReplies(moving.tx, { rowsMax: 500, afterId: 0 })
  await moving.release()

  expect(await text).toBe('one two three')
})

test('text of another message, and of the turns before, is left out', async ({ world }) => {
  const scene = await createScene(world)
  const conversation = await scene.open()
  const first = await scene.start(conversation)
  await scene.say(first, 'old')
  await scene.end(first)
  const run = await scene.start(conversation)
  await scene.say(run, 'new')

  const [row] = await scene.sql<
    { endSeq: number }[]
  >`select end_seq as "endSeq" from conversations where id = ${conversation}`
  expect(await readStreamedText(scene.sql, { ...run, afterSeq: row!.endSeq })).toBe('new')
  expect(await readStreamedText(scene.sql, { ...run, afterSeq: 0 })).toBe('new')
})
