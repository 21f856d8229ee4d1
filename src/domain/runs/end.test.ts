import { describe, expect } from 'vitest'
import { completesOf, createScene, deltaLine, type Scene, textOfEvents, USAGE } from '../../../tests/support/scene.ts'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import { type ClaimedRun, releaseRun } from '../../queue/runs.ts'
import { publishReplies } from '../../queue/thread-response.ts'
import { pageHistory } from '../messages/history.ts'
import { cancelRuns } from './cancel.ts'
import { endRun } from './end.ts'
import { getRun } from './get.ts'
import { saveStep } from './save-step.ts'
import { takeSteerMessages } from './steer.ts'

requirePostgres('ends race on connections of their own')

/** The one `complete` of a message; fails when there is none, more than one, or anything of the message behind it. */
async function onlyComplete(scene: Scene, run: { conversationId: string; messageId: string }) {
  const events = await scene.events(run.conversationId)
  const own = events.filter((event) => (JSON.parse(event.data) as { messageId?: string }).messageId === run.messageId)
  expect(own.filter((event) => event.name === 'complete')).toHaveLength(1)
  expect(own.at(-1)!.name).toBe('complete')
  const [complete] = completesOf([own.at(-1)!])
  expect(complete!.finalText).toBe(textOfEvents(events, run.messageId))
  return complete!
}

const step = (text: string, number = 1) => ({
  step: number,
  messages: [{ role: 'assistant' as const, content: text }],
  usage: USAGE,
  model: 'demo/demo',
  costMicros: 0,
})

describe('the end of a run', () => {
  test('comes behind the replies that were not published yet', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await scene.say(run, 'published ')
    await scene.publish()
    await scene.say(run, 'waiting ', 'on the ')
    const { ended, published } = await scene.end(run, {
      text: 'published waiting on the queue',
      lastEvents: [deltaLine(run, 'queue')],
      usage: USAGE,
      model: 'demo/demo',
    })

    expect(ended).toMatchObject([{ id: run.id, messageId: run.messageId }])
    expect(published).toMatchObject([{ firstSeq: 2, lastSeq: 5 }])
    expect(scene.signals.publishedEvents).toEqual(published)
    const complete = await onlyComplete(scene, run)
    expect(complete).toMatchObject({ status: 'completed', usage: USAGE, processedMessageIds: [run.messageId] })
    expect(await getRun(scene.sql, { actor: scene.actor, runId: run.id })).toMatchObject({
      status: 'completed',
      result: 'published waiting on the queue',
      usage: USAGE,
      model: 'demo/demo',
      error: null,
    })
  })

  test('is not written while the database lacks replies that its writer sent', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await scene.say(run, 'kept ')
    // What a crash leaves that took the last batch back: see `insertReplies`.
    expect(await scene.end(run, { text: 'kept lost', batch: 2 })).toMatchObject({ ended: [], published: [] })
    expect(await scene.stateOf(run.id)).toBe('running')
    expect((await scene.end(run, { text: 'kept ', batch: 1 })).ended).toHaveLength(1)
    expect(await onlyComplete(scene, run)).toMatchObject({ finalText: 'kept ' })
  })

  test('says why a run failed, then completes it', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await scene.end(run, { status: 'failed', error: { code: 'model_error', message: 'It broke' }, deadLetter: true })

    const events = await scene.events(run.conversationId)
    expect(events.map((event) => event.name)).toEqual(['error', 'complete'])
    expect(JSON.parse(events[0]!.data)).toMatchObject({ error: 'It broke', code: 'model_error' })
    expect(await onlyComplete(scene, run)).toMatchObject({ status: 'failed' })
    expect(
      await scene.sql`select queue, error, attempts from dead_letters where organization_id = ${scene.organizationId}`,
    ).toEqual([{ queue: 'runs', error: 'It broke', attempts: 1 }])
  })

  test('is written once, by whichever of many comes first', async ({ world }) => {
    const scene = await createScene(world)
    const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))
    for (let i = 0; i < 10; i++) {
      const run = await scene.start(await scene.open())
      await scene.say(run, 'some text')
      const key = { organizationId: scene.organizationId, conversationId: run.conversationId }
      const outcomes = await Promise.all([
        endRun({ sql: replicas[0]!.sql, signals: scene.signals }, { ...run, status: 'completed', text: 'some text' }),
        endRun({ sql: replicas[1]!.sql, signals: scene.signals }, { ...run, status: 'failed' }),
        cancelRuns({ sql: replicas[2]!.sql, signals: scene.signals }, key).then((ended) => ({ ended })),
        publishReplies(scene.sql, { rowsMax: 500, afterId: 0 }).then(() => ({ ended: [] })),
      ])
      expect(outcomes.flatMap((outcome) => outcome.ended)).toHaveLength(1)
      const { status } = await onlyComplete(scene, run)
      expect(await scene.stateOf(run.id)).toBe(status)
    }
  })

  test('lets the next message go, once', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    const [second, third] = [await scene.post(run.conversationId), await scene.post(run.conversationId)]

    const results = await Promise.all([scene.end(run), scene.end(run), scene.end(run, { fence: null })])
    expect(results.filter((result) => result.nextReady)).toHaveLength(1)
    expect(scene.signals.ready).toEqual([undefined])
    expect(await scene.stateOf(second.runId)).toBe('ready')
    expect(await scene.stateOf(third.runId)).toBe('queued')
  })

  test('that could not be committed leaves nothing behind', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open(), { webhookUrl: 'https://example.com/' })
    await scene.say(run, 'text')
    await scene.sql`insert into outbox (organization_id, id, kind, target, payload)
      values (${scene.organizationId}, ${run.id}, 'webhook', 'in the way', '{}')`

    await expect(scene.end(run)).rejects.toThrow('outbox_pkey')
    expect(await scene.stateOf(run.id)).toBe('running')
    expect(await scene.events(run.conversationId)).toEqual([])
    await scene.sql`delete from outbox where organization_id = ${scene.organizationId}`
    await scene.end(run)
    expect(await onlyComplete(scene, run)).toMatchObject({ status: 'completed', finalText: 'text' })
  })

  test('owes the caller its webhook', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open(), { webhookUrl: 'https://example.com/hook' })
    await scene.say(run, 'text')
    await scene.end(run, { usage: USAGE })

    const rows = await scene.sql`
      select kind, target, payload from outbox where organization_id = ${scene.organizationId}`
    expect(rows).toMatchObject([
      {
        kind: 'webhook',
        target: 'https://example.com/hook',
        payload: { runId: run.id, messageId: run.messageId, status: 'completed', finalText: 'text', usage: USAGE },
      },
    ])
  })

  test('can be written whatever characters a model or a provider gives', async ({ world }) => {
    const scene = await createScene(world)
    const odd = 'nul \0 half \ud83d done'
    for (const status of ['completed', 'failed', 'cancelled'] as const) {
      const run = await scene.start(await scene.open(), { webhookUrl: 'https://example.com/hook' })
      await scene.say(run, odd)
      await scene.end(run, { status, error: { code: 'odd', message: odd }, deadLetter: true, fence: null })

      expect(await onlyComplete(scene, run)).toMatchObject({ status, finalText: odd })
      expect((await getRun(scene.sql, { actor: scene.actor, runId: run.id })).result).toBe(
        'nul \uFFFD half \uFFFD done',
      )
    }
  })
})

describe('the text of an end', () => {
  test('is what was streamed, when its writer does not know it', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const earlier = await scene.start(conversation)
    await scene.say(earlier, 'not this')
    await scene.end(earlier)
    const run = await scene.start(conversation)
    await scene.say(run, 'in the log, ')
    await scene.publish()
    await scene.say(run, 'on the queue')
    await scene.end(run, { status: 'failed', fence: null })

    expect(await onlyComplete(scene, run)).toMatchObject({ finalText: 'in the log, on the queue' })
  })

  test('goes on over attempts on several replicas', async ({ world }) => {
    const scene = await createScene(world)
    let run = await scene.start(await scene.open())
    for (const piece of ['one ', 'two ', 'three']) {
      await scene.say(run, piece)
      await releaseRun(scene.sql, run, { delayMs: 0, countAttempt: true })
      run = await scene.claimOne()
    }
    await scene.end(run)
    expect(await onlyComplete(scene, run)).toMatchObject({ finalText: 'one two three' })
  })

  test('of an answer that was cut off is in the transcript, behind the steps that were saved', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await scene.say(run, 'A first step.')
    await saveStep(scene.sql, run, step('A first step.'))
    await scene.say(run, '\n\nAnd half a')
    await cancelRuns(scene, { organizationId: scene.organizationId, conversationId: run.conversationId })

    const { messages } = await pageHistory(scene.sql, {
      actor: scene.actor,
      conversationId: run.conversationId,
      limit: 9,
    })
    expect(messages.map(({ role, content }) => [role, content])).toEqual([
      ['user', `text of ${run.messageId}`],
      ['assistant', 'A first step.'],
      ['assistant', 'And half a'],
    ])
    expect(await onlyComplete(scene, run)).toMatchObject({ finalText: 'A first step.\n\nAnd half a' })
  })

  test('that was saved whole is not in the transcript a second time', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await scene.say(run, 'All of it.')
    await saveStep(scene.sql, run, step('All of it.'))
    await scene.end(run, { status: 'failed' })

    const { messages } = await pageHistory(scene.sql, {
      actor: scene.actor,
      conversationId: run.conversationId,
      limit: 9,
    })
    expect(messages.map((message) => message.content)).toEqual([`text of ${run.messageId}`, 'All of it.'])
  })
})

describe('messages that were taken into a running turn', () => {
  async function startWithSteered(scene: Scene): Promise<{ run: ClaimedRun; steered: string[] }> {
    const run = await scene.start(await scene.open(), { webhookUrl: 'https://example.com/1' })
    const steered: string[] = []
    for (const webhookUrl of ['https://example.com/2', null]) {
      steered.push((await scene.post(run.conversationId, { onBusy: 'steer', webhookUrl })).messageId)
    }
    await takeSteerMessages(scene.sql, run)
    return { run, steered }
  }

  test.for(['completed', 'failed', 'cancelled'] as const)(
    'each get one end with it (%s)',
    async (status, { world }) => {
      const scene = await createScene(world)
      const { run, steered } = await startWithSteered(scene)
      const waiting = await scene.post(run.conversationId)
      await scene.say(run, 'for all of you')
      const { ended } = await scene.end(run, { status })

      const ids = [run.messageId, ...steered]
      expect(ended.map((one) => one.messageId).sort()).toEqual([...ids].sort())
      const completes = completesOf(await scene.events(run.conversationId))
      expect(completes.map((complete) => complete.messageId).sort()).toEqual([...ids].sort())
      for (const complete of completes) {
        expect(complete).toMatchObject({ status, finalText: 'for all of you' })
        expect([...complete.processedMessageIds].sort()).toEqual([...ids].sort())
      }
      const rows =
        await scene.sql`select target from outbox where organization_id = ${scene.organizationId} order by target`
      expect(rows).toEqual([{ target: 'https://example.com/1' }, { target: 'https://example.com/2' }])
      expect((await scene.claimOne()).id).toBe(waiting.runId)
      const [row] = await scene.sql`select open_runs from conversations where id = ${run.conversationId}`
      expect(row).toEqual({ open_runs: 1 })
    },
  )
})
