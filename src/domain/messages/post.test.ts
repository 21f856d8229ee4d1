import { describe, expect } from 'vitest'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { test } from '../../../tests/support/world.ts'
import type { ClaimedRun } from '../../queue/runs.ts'
import { storeFile } from '../files/files.ts'
import { loadTurn } from '../runs/begin.ts'
import { type LocalRunner, type PostMessage, postMessage } from './post.ts'

const OPTIONS = { replica: 'replica-1', leaseMs: 60_000, depthMax: 100, organizationMax: 1_000, workerIdleMs: 60_000 }

/** A replica with so many free workers, and what becomes of the places that were reserved. */
function runnerWith(free: number) {
  const settled: (ClaimedRun | null)[] = []
  const runner: LocalRunner = {
    reserve: () => free-- > 0,
    settle: (run) => void settled.push(run),
    hasWorker: () => false,
  }
  return { runner, settled }
}

function post(scene: Scene, conversationId: string, over: Partial<PostMessage> = {}, runner = runnerWith(0).runner) {
  const message = {
    actor: scene.actor,
    conversationId,
    content: 'hello',
    onBusy: 'enqueue' as const,
    origin: {},
    files: [],
  }
  return postMessage({ ...scene, runner, budgets, backlog }, { ...message, ...over }, OPTIONS)
}

/** An organization with as much budget as it likes. */
const budgets = { findExhausted: async () => null }
const backlog = { admit: async () => {} }

async function* bytes(text: string) {
  yield Buffer.from(text)
}

describe('a place of this replica', () => {
  test('is used for the run', async ({ world }) => {
    const scene = await createScene(world)
    const { runner, settled } = runnerWith(1)
    const accepted = await post(scene, await scene.open(), {}, runner)

    expect(settled).toEqual([accepted.claimed])
    expect(settled[0]).toMatchObject({ id: accepted.runId, fence: 1 })
  })

  test('is given back when the message is refused, repeated, or has to wait', async ({ world }) => {
    const scene = await createScene(world)
    const { runner, settled } = runnerWith(9)
    const conversation = await scene.open()
    await post(scene, conversation, { messageId: 'one' }, runner)
    await post(scene, conversation, { messageId: 'one' }, runner)
    await post(scene, conversation, {}, runner)
    await expect(post(scene, conversation, { onBusy: 'reject' }, runner)).rejects.toThrow()
    await expect(post(scene, 'conv_unknown', {}, runner)).rejects.toThrow()

    expect(settled.map((run) => run !== null)).toEqual([true, false, false, false, false])
  })

  test('is not asked for by a stranger', async ({ world }) => {
    const scene = await createScene(world)
    const { runner, settled } = runnerWith(1)
    const actor = { ...scene.actor, kind: 'session' as const, conversationId: await scene.open() }
    const posting = post(scene, await scene.open(), { actor }, runner)

    await expect(posting).rejects.toMatchObject({ code: 'not_found' })
    expect(settled).toEqual([])
  })
})

describe('an idempotency key', () => {
  test('names the message where the client gave no id, in its own conversation', async ({ world }) => {
    const scene = await createScene(world)
    const [one, two] = [await scene.open(), await scene.open()]
    const first = await post(scene, one, { idempotencyKey: 'key' })

    expect(await post(scene, one, { idempotencyKey: 'key' })).toMatchObject({ runId: first.runId, duplicate: true })
    expect(await post(scene, one, { idempotencyKey: 'other key' })).toMatchObject({ duplicate: false })
    expect(await post(scene, two, { idempotencyKey: 'key' })).toMatchObject({ duplicate: false })
  })

  test('with a request that differs in anything is refused', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const stored = { organizationId: scene.organizationId, conversationId: conversation, mediaType: 'text/plain' }
    const file = await storeFile(scene.sql, { ...stored, name: 'a.txt' }, bytes('a'))
    await post(scene, conversation, { messageId: 'one', files: [file] })

    const same = { ...(await storeFile(scene.sql, { ...stored, name: 'a.txt' }, bytes('a'))) }
    expect(await post(scene, conversation, { messageId: 'one', files: [same] })).toMatchObject({ duplicate: true })
    const others: Partial<PostMessage>[] = [
      { content: 'hello!' },
      { webhookUrl: 'https://example.com/' },
      { origin: { platform: 'slack' } },
      { files: [] },
      { files: [await storeFile(scene.sql, { ...stored, name: 'a.txt' }, bytes('b'))] },
      { files: [{ ...file, name: 'b.txt' }] },
    ]
    for (const over of others) {
      const posting = post(scene, conversation, { messageId: 'one', files: [file], ...over })
      await expect(posting).rejects.toMatchObject({ code: 'idempotency_mismatch' })
    }
  })
})

test('a message may hold any character, and the model gets it with its files', async ({ world }) => {
  const scene = await createScene(world)
  const conversationId = await scene.open()
  const name = `${'n'.repeat(254)}🎉.txt`
  const file = await storeFile(
    scene.sql,
    { organizationId: scene.organizationId, conversationId, name, mediaType: 'text/plain' },
    bytes('of the file'),
  )
  const { runner, settled } = runnerWith(1)
  await post(scene, conversationId, { content: 'nul \0 half \ud83d whole 🎉', files: [file] }, runner)

  const { messages } = (await loadTurn(scene.sql, settled[0]!))!
  expect(messages).toMatchObject([
    {
      role: 'user',
      content: [
        { type: 'text', text: 'nul \uFFFD half \uFFFD whole 🎉' },
        { type: 'text', text: expect.stringContaining('of the file') },
      ],
    },
  ])
})

test('a file without words is a message', async ({ world }) => {
  const scene = await createScene(world)
  const conversationId = await scene.open()
  const place = { organizationId: scene.organizationId, conversationId, name: 'a.bin', mediaType: 'application/zip' }
  const file = await storeFile(scene.sql, place, bytes('PK'))
  const { runner, settled } = runnerWith(1)
  await post(scene, conversationId, { content: '', files: [file] }, runner)

  const { messages } = (await loadTurn(scene.sql, settled[0]!))!
  const text = 'Attached file "a.bin" (application/zip, 2 bytes), not shown.'
  expect(messages).toEqual([{ role: 'user', content: [{ type: 'text', text }] }])
})
