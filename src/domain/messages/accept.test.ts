import { describe, expect } from 'vitest'
import { completesOf, createScene, type Scene } from '../../../tests/support/scene.ts'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import { renewRuns } from '../../queue/runs.ts'
import { endConversation } from '../conversations/end.ts'
import { type AcceptOptions, acceptMessage, type NewMessage, type OnBusy } from './accept.ts'

requirePostgres('replicas accept at the same time')

const OPTIONS: AcceptOptions = {
  replica: 'replica-1',
  leaseMs: 60_000,
  depthMax: 100,
  organizationMax: 1_000,
  workerIdleMs: 60_000,
  preferredMs: 0,
  claimHere: false,
  workerHere: false,
}

function messageOf(scene: Scene, conversationId: string, over: Partial<NewMessage> = {}): NewMessage {
  return {
    organizationId: scene.organizationId,
    conversationId,
    messageId: 'message-1',
    content: { role: 'user', content: 'hello' },
    text: 'hello',
    bodyHash: 'hash-1',
    fileIds: [],
    onBusy: 'enqueue',
    webhookUrl: null,
    traceparent: '00-first',
    ...over,
  }
}

function runsOf(scene: Scene, conversationId: string) {
  return scene.sql<{ id: string; state: string; messageId: string }[]>`
    select id, state, message_id as "messageId" from runs
    where organization_id = ${scene.organizationId} and conversation_id = ${conversationId} order by turn`
}

describe('the same message', () => {
  test.for<OnBusy>(['enqueue', 'steer', 'interrupt', 'reject'])(
    '50 times at once on three replicas starts one run and gets one answer (%s)',
    async (onBusy, { world }) => {
      const scene = await createScene(world)
      const conversation = await scene.open()
      const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))
      const message = messageOf(scene, conversation, { onBusy })

      const answers = await Promise.all(
        Array.from({ length: 50 }, (_, i) =>
          acceptMessage({ sql: replicas[i % 3]!.sql, signals: scene.signals }, message, OPTIONS),
        ),
      )

      const runs = await runsOf(scene, conversation)
      expect(runs).toMatchObject([{ state: 'ready', messageId: 'message-1' }])
      expect(new Set(answers.map((answer) => answer.runId))).toEqual(new Set([runs[0]!.id]))
      expect(new Set(answers.map((answer) => answer.traceparent))).toEqual(new Set(['00-first']))
      expect(answers.filter((answer) => !answer.duplicate)).toHaveLength(1)
      expect(scene.signals.ready).toHaveLength(1)
    },
  )

  test('after its run has ended gets the first answer', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open(), { messageId: 'message-1', bodyHash: 'same' })
    await scene.end(run)

    const again = await scene.post(run.conversationId, {
      messageId: 'message-1',
      bodyHash: 'same',
      onBusy: 'interrupt',
    })
    expect(again).toMatchObject({ runId: run.id, duplicate: true, claimed: null })
  })

  test('is another message in another conversation', async ({ world }) => {
    const scene = await createScene(world)
    const answers = [await scene.open(), await scene.open()].map((conversation) =>
      acceptMessage(scene, messageOf(scene, conversation), OPTIONS),
    )
    expect((await Promise.all(answers)).map((answer) => answer.duplicate)).toEqual([false, false])
  })

  test('with another body is refused, whatever goes on', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    await acceptMessage(scene, messageOf(scene, conversation), OPTIONS)

    for (const onBusy of ['enqueue', 'interrupt', 'reject'] as const) {
      const other = messageOf(scene, conversation, { bodyHash: 'hash-2', onBusy })
      await expect(acceptMessage(scene, other, OPTIONS)).rejects.toMatchObject({ code: 'idempotency_mismatch' })
    }
    expect(await runsOf(scene, conversation)).toMatchObject([{ state: 'ready' }])
  })
})

describe('a conversation', () => {
  test('that is unknown, foreign or ended takes no message', async ({ world }) => {
    const [scene, foreign] = [await createScene(world), await createScene(world)]
    const ended = await scene.open()
    await endConversation(scene, { actor: scene.actor, conversationId: ended })

    for (const id of ['conv_unknown', await foreign.open(), ended]) {
      for (const onBusy of ['enqueue', 'interrupt'] as const) {
        await expect(scene.post(id, { onBusy })).rejects.toMatchObject({ code: 'not_found' })
      }
    }
  })

  test('that is ended while a message comes in answers it or refuses it, and no run stays behind', async ({
    world,
  }) => {
    const scene = await createScene(world)
    const replica = await world.replica()
    for (let i = 0; i < 10; i++) {
      const conversation = await scene.open()
      const [posted] = await Promise.allSettled([
        acceptMessage({ sql: replica.sql, signals: scene.signals }, messageOf(scene, conversation), OPTIONS),
        endConversation(scene, { actor: scene.actor, conversationId: conversation }),
      ])
      const runs = await runsOf(scene, conversation)
      if (posted.status === 'fulfilled') expect(runs).toMatchObject([{ state: 'cancelled' }])
      else expect(posted.reason).toMatchObject({ code: 'not_found' })
      expect(runs.filter((run) => run.state !== 'cancelled')).toEqual([])
    }
  })

  test('takes exactly as many waiting messages as its queue is deep, however many come at once', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))

    const outcomes = await Promise.allSettled(
      Array.from({ length: 30 }, (_, i) => {
        const message = messageOf(scene, conversation, { messageId: `message-${i}` })
        return acceptMessage({ sql: replicas[i % 3]!.sql, signals: scene.signals }, message, {
          ...OPTIONS,
          depthMax: 7,
        })
      }),
    )
    const refused = outcomes.filter((outcome) => outcome.status === 'rejected').map((outcome) => outcome.reason)
    expect(refused).toHaveLength(23)
    for (const reason of refused) expect(reason).toMatchObject({ code: 'queue_full', retryAfterSeconds: 5 })
    expect((await runsOf(scene, conversation)).map((run) => run.state)).toEqual(['ready', ...Array(6).fill('queued')])

    await scene.end(await scene.claimOne())
    await scene.post(conversation, {}, { depthMax: 7 })
  })

  test('with a full queue still answers a message that it has taken before', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const first = await acceptMessage(scene, messageOf(scene, conversation), { ...OPTIONS, depthMax: 1 })

    const again = await acceptMessage(scene, messageOf(scene, conversation), { ...OPTIONS, depthMax: 1 })
    expect(again).toMatchObject({ runId: first.runId, duplicate: true })
  })

  test('gives messages that come at once a turn each, without a gap', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    await Promise.all(Array.from({ length: 20 }, () => scene.post(conversation)))

    const rows = await scene.sql<{ turn: number }[]>`
      select turn from messages where conversation_id = ${conversation} order by turn`
    expect(rows.map((row) => row.turn)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1))
  })
})

describe('a message to a busy conversation', () => {
  test('waits for its turn by default', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    const second = await scene.post(run.conversationId, {}, { claimHere: true })

    expect(second.claimed).toBeNull()
    expect(await scene.stateOf(second.runId)).toBe('queued')
  })

  test('is refused where it says so, and taken when the conversation is free', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())

    await expect(scene.post(run.conversationId, { onBusy: 'reject' })).rejects.toMatchObject({
      code: 'conversation_busy',
    })
    await scene.end(run)
    await scene.post(run.conversationId, { onBusy: 'reject' })
  })

  test('that interrupts ends what runs and what waits, and is next', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    const waiting = await scene.post(run.conversationId)
    await scene.say(run, 'half a ')
    const next = await scene.post(run.conversationId, { onBusy: 'interrupt' })

    expect((await runsOf(scene, run.conversationId)).map((one) => one.state)).toEqual([
      'cancelled',
      'cancelled',
      'ready',
    ])
    expect(scene.signals.ended.sort()).toEqual([run.id, waiting.runId].sort())
    expect((await scene.claimOne()).id).toBe(next.runId)
    const completes = completesOf(await scene.events(run.conversationId))
    expect(completes.map(({ messageId, status, finalText }) => ({ messageId, status, finalText }))).toEqual([
      { messageId: waiting.messageId, status: 'cancelled', finalText: '' },
      { messageId: run.messageId, status: 'cancelled', finalText: 'half a ' },
    ])
    expect(scene.signals.publishedEvents.at(-1)?.lastSeq).toBe(3)
  })

  test('that interrupts is refused without ending anything when its id was used for another body', async ({
    world,
  }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open(), { messageId: 'message-1' })

    const other = scene.post(run.conversationId, { messageId: 'message-1', bodyHash: 'other', onBusy: 'interrupt' })
    await expect(other).rejects.toMatchObject({ code: 'idempotency_mismatch' })
    expect(await scene.stateOf(run.id)).toBe('running')
  })
})

describe('a replica with a free worker', () => {
  test('has the run in the same commit, with a lease that it can renew', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const accepted = await scene.post(conversation, { messageId: 'message-1' }, { claimHere: true, leaseMs: 1_000 })

    expect(accepted.claimed).toMatchObject({
      organizationId: scene.organizationId,
      id: accepted.runId,
      conversationId: conversation,
      messageId: 'message-1',
      turn: 1,
      attempt: 1,
      fence: 1,
    })
    expect(scene.signals.ready).toEqual([])
    const runs = [accepted.claimed!]
    const held = await renewRuns(scene.sql, { replica: 'replica-1', runs, leaseMs: 60_000 })
    expect(held).toEqual(new Set([accepted.runId]))
    expect(await scene.claim()).toEqual([])
  })

  test('does not take a repeated message on a second time', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const posts = await Promise.all(
      Array.from({ length: 10 }, () =>
        acceptMessage(scene, messageOf(scene, conversation), { ...OPTIONS, claimHere: true }),
      ),
    )
    expect(posts.filter((accepted) => accepted.claimed !== null)).toHaveLength(1)
  })
})

test('the files of a message are bound to it in the same commit', async ({ world }) => {
  const scene = await createScene(world)
  const conversation = await scene.open()
  await scene.sql`
    insert into files (organization_id, id, conversation_id, name, media_type, bytes, sha256)
    values (${scene.organizationId}, 'file-1', ${conversation}, 'a', 'text/plain', 1, '')`
  const accepted = await scene.post(conversation, { fileIds: ['file-1'] })

  expect(await scene.sql`select message_id from files where organization_id = ${scene.organizationId}`).toEqual([
    { message_id: accepted.messageId },
  ])
})
