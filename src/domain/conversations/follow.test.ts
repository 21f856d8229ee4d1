import { describe, expect } from 'vitest'
import { createScene, type Scene, textOfEvents, until } from '../../../tests/support/scene.ts'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import { pruneLog } from '../../sse/event-log.ts'
import { endRun } from '../runs/end.ts'
import { getRun } from '../runs/get.ts'
import { endConversation } from './end.ts'
import { followConversation } from './follow.ts'

requirePostgres('streams open while turns end')

/** A turn from its message to its end. */
async function answer(scene: Scene, conversation: string, text: string) {
  const run = await scene.start(conversation)
  await scene.say(run, text)
  await scene.end(run)
  return run
}

/** What a fresh stream is shown now; it reads all of it and is closed again. */
async function shownFresh(scene: Scene, conversation: string) {
  const following = await scene.follow(conversation)
  await scene.see(conversation)
  await scene.leave(following)
  return scene.events(conversation, following.after)
}

/** `reset` of the frames that a stream begins with. */
function resetOf(preamble: string) {
  const data = /event: reset\ndata: (.*)\n\n/.exec(preamble)?.[1]
  return data === undefined ? undefined : (JSON.parse(data) as { oldest: number; snapshot: Snapshot })
}

interface Snapshot {
  conversationId: string
  messages: { role: string; content: string }[]
  runs: { runId: string; messageId: string; status: string }[]
}

describe('a fresh stream', () => {
  test('begins with `connected` and the whole unfinished turn', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    await answer(scene, conversation, 'old')
    await shownFresh(scene, conversation)
    const run = await scene.start(conversation)
    await scene.say(run, 'new ')
    await scene.publish()
    const following = await scene.follow(conversation)
    await scene.say(run, 'words')
    await scene.publish()

    expect(following.preamble).toMatch(
      /^event: connected\ndata: {"agentId":"[^"]+","conversationId":"[^"]+","timestamp":\d+}\n\n$/,
    )
    expect(following.preamble).toContain(conversation)
    expect(textOfEvents(await scene.events(conversation, following.after), run.messageId)).toBe('new words')
    expect(await scene.events(conversation, following.after)).toHaveLength(2)
  })

  test('is not shown a turn whose end another stream was sent', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const open = await scene.follow(conversation)
    await answer(scene, conversation, 'seen')
    await scene.see(conversation)
    await scene.leave(open)

    expect(await shownFresh(scene, conversation)).toEqual([])
  })

  test('is shown a turn that another stream was to be sent and was not', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const torn = await scene.follow(conversation)
    const run = await answer(scene, conversation, 'lost')
    await scene.leave(torn)

    expect(textOfEvents(await shownFresh(scene, conversation), run.messageId)).toBe('lost')
  })

  test('is shown it too when nobody can say any more whether it was sent', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    // Its replica was killed a moment ago: nobody takes the stream back, and the lease still lives.
    await scene.follow(conversation)
    const run = await answer(scene, conversation, 'lost')

    expect(textOfEvents(await shownFresh(scene, conversation), run.messageId)).toBe('lost')
  })

  test('waits for the word of another stream that is being sent the end', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const open = await scene.follow(conversation)
    await answer(scene, conversation, 'seen')
    const opening = scene.follow(conversation)
    await scene.see(conversation)
    await scene.leave(open)

    const following = await opening
    expect(await scene.events(conversation, following.after)).toEqual([])
  })

  test('is shown a turn that ended just before it came, once', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const run = await answer(scene, conversation, 'quick')

    expect(textOfEvents(await shownFresh(scene, conversation), run.messageId)).toBe('quick')
    expect(await shownFresh(scene, conversation)).toEqual([])
  })

  test('is shown such a turn alone, also when another opens at the same moment', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const run = await answer(scene, conversation, 'quick')
    const { sql: holder } = await world.replica()

    // Both have found the turn unseen by the time that either may note that it is open.
    const held = await scene.hold(holder, (tx) => tx`select 1 from runs where id = ${run.id} for update`)
    const opening = [scene.follow(conversation), scene.follow(conversation)]
    await scene.lockWaiters(2)
    await held.release()
    const first = await Promise.race(opening)
    expect(first.after).toBe(0)
    await scene.see(conversation)
    const starts = await Promise.all(opening.map(async (one) => (await one).after))
    expect(starts.sort()).toEqual([0, 2])
  })

  test('is not shown a turn whose end somebody has read', async ({ world }) => {
    const scene = await createScene(world)
    const run = await answer(scene, await scene.open(), 'read')
    await getRun(scene.sql, { actor: scene.actor, runId: run.id })

    expect(await shownFresh(scene, run.conversationId)).toEqual([])
  })

  test('is not shown a turn that ended long ago, seen or not', async ({ world }) => {
    const scene = await createScene(world)
    const run = await answer(scene, await scene.open(), 'stale')
    await scene.sql`update runs set ended_at = ended_at - interval '1 minute' where id = ${run.id}`

    expect(await shownFresh(scene, run.conversationId)).toEqual([])
  })

  test('is shown all turns that nobody saw, but none before one that was seen', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    await answer(scene, conversation, 'first')
    const seen = await answer(scene, conversation, 'second')
    await getRun(scene.sql, { actor: scene.actor, runId: seen.id })
    const unseen = [await answer(scene, conversation, 'third'), await answer(scene, conversation, 'fourth')]

    const events = await shownFresh(scene, conversation)
    expect(unseen.map((run) => textOfEvents(events, run.messageId))).toEqual(['third', 'fourth'])
    expect(events).toHaveLength(4)
  })

  test('is shown a turn that ends while it opens, and no later stream is', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await scene.say(run, 'quick')
    const [holder, other] = await Promise.all([world.replica(), world.replica()])

    // The stream has looked at the conversation and waits to note that it is open.
    const locked = await scene.hold(holder.sql, (tx) => tx`select 1 from replicas for update`)
    const opening = scene.follow(run.conversationId)
    await scene.lockWaiters(1)
    const ending = endRun({ sql: other.sql, signals: scene.signals }, { ...run, status: 'completed', text: 'quick' })
    await Promise.race([ending, scene.lockWaiters(2)])
    await locked.release()
    const [following] = await Promise.all([opening, ending])

    const events = await scene.events(run.conversationId, following.after)
    expect(events.map((event) => event.name)).toEqual(['output', 'complete'])
    await scene.see(run.conversationId)
    await scene.leave(following)
    expect(await shownFresh(scene, run.conversationId)).toEqual([])
  })
})

describe('a stream that resumes', () => {
  test('goes on behind any number that the log still has', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    await answer(scene, conversation, 'one')
    await answer(scene, conversation, 'two')

    for (const position of [0, 1, 2, 3, 4]) {
      const following = await scene.follow(conversation, String(position))
      expect(following).toMatchObject({ after: position, head: 4 })
      expect(resetOf(following.preamble)).toBeUndefined()
    }
  })

  test('is reset where the log was pruned, with what was said and what goes on', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const old = await answer(scene, conversation, 'gone')
    await scene.sql`
      insert into messages (organization_id, conversation_id, id, run_id, turn, position, role, content, text)
      values (${scene.organizationId}, ${conversation}, 'answer', ${old.id}, 1, 1, 'assistant', '{}', 'gone')`
    const run = await scene.start(conversation)
    const waiting = await scene.post(conversation)
    await scene.say(run, 'going on')
    await scene.publish()
    // A step of the unfinished turn is saved; the stream tells it as well, so the snapshot must not.
    await scene.sql`
      insert into messages (organization_id, conversation_id, id, run_id, turn, position, role, content, text)
      values (${scene.organizationId}, ${conversation}, 'step', ${run.id}, ${run.turn}, 1, 'assistant', '{}', 'going on')`
    await pruneLog(scene.sql, { keepMs: 0, turnsMax: 10 })

    const following = await scene.follow(conversation, '1')
    const reset = resetOf(following.preamble)!
    expect(reset.oldest).toBe(3)
    expect(reset.snapshot.messages.map(({ role, content }) => [role, content])).toEqual([
      ['user', `text of ${old.messageId}`],
      ['assistant', 'gone'],
      ['user', `text of ${run.messageId}`],
      ['user', `text of ${waiting.messageId}`],
    ])
    expect(reset.snapshot.runs).toEqual([
      { runId: run.id, messageId: run.messageId, status: 'running' },
      { runId: waiting.runId, messageId: waiting.messageId, status: 'queued' },
    ])
    expect(textOfEvents(await scene.events(conversation, following.after), run.messageId)).toBe('going on')
    expect(resetOf((await scene.follow(conversation, '2')).preamble)).toBeUndefined()
  })

  test('is reset when its number was never given', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    await answer(scene, conversation, 'one')

    const following = await scene.follow(conversation, '3')
    expect(resetOf(following.preamble)).toMatchObject({ oldest: 1 })
    expect(following.after).toBe(2)
  })

  test('gets the last 100 messages of a long conversation', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    for (let i = 0; i < 60; i++) await answer(scene, conversation, 'x')
    await scene.sql`
      insert into messages (organization_id, conversation_id, id, run_id, turn, position, role, content, text)
      select organization_id, conversation_id, 'answer-' || turn, run_id, turn, 1, 'assistant', '{}', 'answer ' || turn
      from messages where conversation_id = ${conversation}`

    const { messages } = resetOf((await scene.follow(conversation, '9999')).preamble)!.snapshot
    expect(messages).toHaveLength(100)
    expect(messages[1]?.content).toBe('answer 11')
    expect(messages.at(-1)?.content).toBe('answer 60')
  })

  test.for(['-1', '1.5', 'abc', '1 ', '0x1', '1234567890123456', '１'])(
    'is refused with the position %j',
    async (position, { world }) => {
      const scene = await createScene(world)
      const following = scene.follow(await scene.open(), position)
      await expect(following).rejects.toMatchObject({ code: 'invalid_request' })
    },
  )

  test('is fresh when the position is empty', async ({ world }) => {
    const scene = await createScene(world)
    expect(await scene.follow(await scene.open(), '')).toMatchObject({ after: 0, head: 0 })
  })
})

describe('a stream of a conversation', () => {
  test('that is unknown, foreign or ended is refused, and notes nothing', async ({ world }) => {
    const [scene, foreign] = [await createScene(world), await createScene(world)]
    const ended = await scene.open()
    await endConversation(scene, { actor: scene.actor, conversationId: ended })

    for (const id of ['conv_unknown', await foreign.open(), ended]) {
      await expect(scene.follow(id)).rejects.toMatchObject({ code: 'not_found' })
    }
    expect(await scene.sql`select 1 from stream_presence where organization_id = ${scene.organizationId}`).toEqual([])
  })

  test('of another session is refused', async ({ world }) => {
    const scene = await createScene(world)
    const [own, other] = [await scene.open(), await scene.open()]
    const actor = { ...scene.actor, kind: 'session' as const, conversationId: own }
    const following = followConversation(scene.sql, { actor, conversationId: other, replica: 'x' })
    await expect(following).rejects.toMatchObject({ code: 'not_found' })
  })

  test('opens while a publisher holds the conversation, as soon as that is done', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const holder = await world.replica()
    const publishing = await scene.hold(
      holder.sql,
      (tx) => tx`update conversations set last_seq = 7 where id = ${conversation}`,
    )
    const following = scene.follow(conversation)
    await scene.lockWaiters(1)
    await publishing.release()
    await until(async () => expect(await following).toMatchObject({ head: 7 }))
  })
})
