import { describe, expect } from 'vitest'
import { createScene, type Scene, textOfEvents } from '../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../tests/support/world.ts'
import type { ClaimedRun } from '../queue/runs.ts'
import { createReplyWriter } from './replies.ts'

async function createStage(world: World) {
  const scene = await createScene(world)
  const writer = createReplyWriter({ sql: scene.sql, log: world.log, onInserted() {} })
  world.defer(writer.stop)
  const runs = [await scene.start(await scene.open()), await scene.start(await scene.open())] as const
  return { scene, writer, runs }
}

const textOf = async (scene: Scene, run: ClaimedRun) => {
  await scene.publish()
  return textOfEvents(await scene.events(run.conversationId), run.messageId)
}

test('a run can end while another one speaks without a pause', async ({ world }) => {
  const { scene, writer, runs } = await createStage(world)
  const [ending, speaking] = runs.map((run) => writer.open(run, () => {}))
  let spoken = 0
  let turn: NodeJS.Immediate
  // In every turn of the loop, so that something waits whenever a statement comes back.
  const speak = () => {
    speaking!.delta(`w${++spoken} `)
    turn = setImmediate(speak)
  }
  speak()
  world.defer(async () => clearImmediate(turn))

  ending!.delta('all of it')
  await Promise.resolve()
  const unsent = await ending!.close(new AbortController().signal)
  const before = spoken
  expect(await textOf(scene, runs[0])).toBe(unsent!.length === 0 ? 'all of it' : '')
  await expect.poll(() => spoken).toBeGreaterThan(before)
})

test('what was not sent when a run ends is given back, and what was sent is stored', async ({ world }) => {
  const { scene, writer, runs } = await createStage(world)
  const replies = writer.open(runs[0], () => {})
  replies.delta('one ')
  await expect.poll(() => textOf(scene, runs[0])).toBe('one ')
  replies.event('status', { type: 'status' })
  const unsent = await replies.close(new AbortController().signal)
  expect(unsent).toEqual(['status {"type":"status"}'])
})

test('no event is larger than it may be, however much is said at once, and nothing of it is lost', async ({
  world,
}) => {
  const { scene, writer, runs } = await createStage(world)
  const replies = writer.open(runs[0], () => {})
  const text = '😀 words '.repeat(40_000)
  replies.delta('before ')
  replies.delta(text)
  replies.delta('after')
  const said = `before ${text}after`
  await expect.poll(() => textOf(scene, runs[0]), { timeout: 60_000 }).toBe(said)
  const events = await scene.events(runs[0].conversationId)
  const pieces = events.map(({ data }) => (JSON.parse(data) as { content: string }).content)
  expect(pieces.length).toBeGreaterThanOrEqual(Math.ceil(said.length / 65_536))
  for (const piece of pieces) expect(piece.length).toBeLessThanOrEqual(65_536)
  expect(pieces.every((piece) => piece.isWellFormed())).toBe(true)
})

describe('while the database does not answer', () => {
  requirePostgres('a lock that is held by another connection')

  test('a run is given up by its signal, and nothing waits for it afterwards', async ({ world }) => {
    const { scene, writer, runs } = await createStage(world)
    const { sql: holder } = await world.replica()
    const held = await scene.hold(holder, (tx) => tx`select 1 from runs where id = ${runs[0].id} for update`)
    const replies = writer.open(runs[0], () => {})
    replies.delta('stuck')
    await scene.lockWaiters(1)
    const giveUp = new AbortController()
    const closing = replies.close(giveUp.signal)
    giveUp.abort()
    expect(await closing).toBeNull()
    await held.release()
    await writer.stop()
  })
})
