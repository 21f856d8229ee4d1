import { describe, expect } from 'vitest'
import { createScene, type Scene, USAGE } from '../../../tests/support/scene.ts'
import { test } from '../../../tests/support/world.ts'
import { saveStep } from '../runs/save-step.ts'
import { historyStats, PAGE_BYTES_MAX, pageHistory } from './history.ts'

/** Turns of a question, a tool call without words, its result, and an answer. */
async function talk(scene: Scene, turns: number) {
  const conversation = await scene.open()
  for (let turn = 1; turn <= turns; turn++) {
    const run = await scene.start(conversation, { text: `question ${turn}` })
    const call = { type: 'tool-call' as const, toolCallId: '1', toolName: 'look', input: {} }
    const result = { ...call, type: 'tool-result' as const, output: { type: 'text' as const, value: 'secret' } }
    const step = { usage: USAGE, model: 'demo/demo', costMicros: 0 }
    const messages = [
      { role: 'assistant' as const, content: [call] },
      { role: 'tool' as const, content: [result] },
    ]
    await saveStep(scene.sql, run, { ...step, step: 1, messages })
    await saveStep(scene.sql, run, { ...step, step: 2, messages: [{ role: 'assistant', content: `answer ${turn}` }] })
    await scene.end(run)
  }
  return conversation
}

async function readAll(scene: Scene, conversationId: string, limit: number) {
  const contents: string[] = []
  let cursor: string | undefined
  for (let pages = 1; ; pages++) {
    const page = await pageHistory(scene.sql, { actor: scene.actor, conversationId, limit, cursor })
    contents.push(...page.messages.map((message) => message.content))
    expect(page.messages.length).toBeLessThanOrEqual(limit)
    expect(page.nextCursor === null).toBe(!page.hasMore)
    if (page.nextCursor === null) return { contents, pages }
    cursor = page.nextCursor
  }
}

describe('the history', () => {
  test('is read in pages of any size, each message once and in order, without tool traffic', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await talk(scene, 4)
    const whole = [1, 2, 3, 4].flatMap((turn) => [`question ${turn}`, `answer ${turn}`])

    for (let limit = 1; limit <= 9; limit++) {
      const { contents, pages } = await readAll(scene, conversation, limit)
      expect(contents).toEqual(whole)
      expect(pages).toBe(Math.ceil(8 / limit))
    }
  })

  test('ends a page where its text is long enough, and shows the rest on the next ones', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await talk(scene, 4)
    const whole = await readAll(scene, conversation, 200)
    // Two bytes each: as many characters would be half as much.
    const long = 'é'.repeat(PAGE_BYTES_MAX / 2)
    const at = { actor: scene.actor, conversationId: conversation, limit: 200 }
    const { id } = (await pageHistory(scene.sql, at)).messages[5]!
    await scene.sql`update messages set text = ${long} where conversation_id = ${conversation} and id = ${id}`

    const first = await pageHistory(scene.sql, at)
    expect(first).toMatchObject({ hasMore: true, messages: { length: 6 } })
    const { contents, pages } = await readAll(scene, conversation, 200)
    expect({ contents: contents.with(5, whole.contents[5]!), pages }).toEqual({ ...whole, pages: 2 })
    const newest = await pageHistory(scene.sql, { ...at, newest: true })
    expect(newest.messages.map((message) => message.id).slice(0, 1)).toEqual([id])
    expect(newest).toMatchObject({ hasMore: true, messages: { length: 3 } })
  })

  test('shows what is said after a page was read on the next one', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await talk(scene, 2)
    const first = await pageHistory(scene.sql, { actor: scene.actor, conversationId: conversation, limit: 3 })
    await scene.post(conversation, { text: 'question 3' })

    const args = { actor: scene.actor, conversationId: conversation, limit: 3, cursor: first.nextCursor! }
    const second = await pageHistory(scene.sql, args)
    expect(second.messages.map((message) => message.content)).toEqual(['answer 2', 'question 3'])
  })

  test('names its session, and each message with its id, role and time', async ({ world }) => {
    const scene = await createScene(world)
    const conversationId = await scene.open()
    const before = Date.now() - 60_000
    const { messageId } = await scene.post(conversationId, { text: 'hello' })

    const page = await pageHistory(scene.sql, { actor: scene.actor, conversationId, limit: 10 })
    expect(page).toMatchObject({ sessionId: conversationId, hasMore: false, nextCursor: null })
    expect(page.messages).toMatchObject([
      { id: messageId, type: 'message', role: 'user', content: 'hello', usage: null },
    ])
    expect(page.messages[0]!.timestamp).toBeGreaterThan(before)
  })

  test('says with each question how its turn stands or ended', async ({ world }) => {
    const scene = await createScene(world)
    const conversationId = await scene.open()
    const failed = await scene.start(conversationId, { text: 'one' })
    await scene.end(failed, { status: 'failed', error: { code: 'model_unavailable', message: 'No model' } })
    const running = await scene.start(conversationId, { text: 'two' })
    const waiting = await scene.post(conversationId, { text: 'three' })

    const { messages } = await pageHistory(scene.sql, { actor: scene.actor, conversationId, limit: 10 })
    expect(messages.map(({ content, run }) => [content, run])).toEqual([
      ['one', { runId: failed.id, status: 'failed', error: { code: 'model_unavailable', message: 'No model' } }],
      ['two', { runId: running.id, status: 'running', error: null }],
      ['three', { runId: waiting.runId, status: 'queued', error: null }],
    ])
  })

  test.for(['x', '1', '1.', '1.2.3', '-1.0', '1.0; drop', ''])('refuses the cursor %j', async (cursor, { world }) => {
    const scene = await createScene(world)
    const page = pageHistory(scene.sql, { actor: scene.actor, conversationId: await scene.open(), limit: 5, cursor })
    await expect(page).rejects.toMatchObject({ code: 'invalid_request' })
  })

  test("of another organization's conversation is not found", async ({ world }) => {
    const [mine, theirs] = [await createScene(world), await createScene(world)]
    const args = { actor: mine.actor, conversationId: await talk(theirs, 1) }
    await expect(pageHistory(mine.sql, { ...args, limit: 5 })).rejects.toMatchObject({ code: 'not_found' })
    await expect(historyStats(mine.sql, args)).rejects.toMatchObject({ code: 'not_found' })
  })
})

describe('its statistics', () => {
  test('count what was said and sum up what it cost', async ({ world }) => {
    const scene = await createScene(world)
    const args = { actor: scene.actor, conversationId: await talk(scene, 3) }

    const stats = await historyStats(scene.sql, args)
    expect(stats).toMatchObject({
      messageCount: 6,
      userMessageCount: 3,
      assistantMessageCount: 3,
      usage: { inputTokens: 18, outputTokens: 30, cachedInputTokens: 6 },
    })
    expect(stats.firstMessageAt).toBeLessThan(stats.lastMessageAt!)
  })

  test('of a conversation without messages are zero', async ({ world }) => {
    const scene = await createScene(world)
    expect(await historyStats(scene.sql, { actor: scene.actor, conversationId: await scene.open() })).toEqual({
      messageCount: 0,
      userMessageCount: 0,
      assistantMessageCount: 0,
      usage: { inputTokens: 0, outputTokens: 0, cachedInputTokens: 0 },
      firstMessageAt: null,
      lastMessageAt: null,
    })
  })
})
