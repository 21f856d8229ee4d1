import { describe, expect } from 'vitest'
import { createScene, type Scene, textOfEvents, until } from '../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../tests/support/world.ts'
import type { ClaimedRun } from '../queue/runs.ts'
import { pruneLog } from '../sse/event-log.ts'
import { storeFile } from './files/files.ts'
import { createRetention } from './retention.ts'
import { cancelRuns } from './runs/cancel.ts'

requirePostgres('rows are locked while others are removed')

const ALL = { keepMs: 0, turnsMax: 100 }
const DAY_MS = 86_400_000
const KEEP = {
  ...{ deadLettersKeepMs: 30 * DAY_MS, webhooksKeepMs: DAY_MS, conversationsKeepMs: null, auditKeepDays: 365 },
  ...{ usageKeepDays: 1096, signInKeepMs: DAY_MS, invitationsKeepMs: 30 * DAY_MS, keysKeepMs: 90 * DAY_MS },
}

async function answer(scene: Scene, conversation: string, text = 'words') {
  const run = await scene.start(conversation)
  await scene.say(run, text)
  await scene.end(run)
  return run
}

/** Lets the turn's end lie an hour back. */
async function age(scene: Scene, run: ClaimedRun) {
  await scene.sql`update runs set ended_at = ended_at - interval '1 hour' where id = ${run.id}`
}

describe('events', () => {
  test('of old turns are removed; a position before them gets a reset, one behind them goes on', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    await age(scene, await answer(scene, conversation, 'old'))
    const fresh = await answer(scene, conversation, 'fresh')

    expect(await pruneLog(scene.sql, { keepMs: 60_000, turnsMax: 100 })).toBe(1)
    expect(await pruneLog(scene.sql, { keepMs: 60_000, turnsMax: 100 })).toBe(0)
    const left = await scene.events(conversation)
    expect(left.map((event) => event.seq)).toEqual([3, 4])
    expect(textOfEvents(left, fresh.messageId)).toBe('fresh')
    expect((await scene.follow(conversation, '1')).preamble).toContain('event: reset')
    expect((await scene.follow(conversation, '2')).preamble).not.toContain('event: reset')
  })

  test('of an unfinished turn stay, however old what came before is', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    await answer(scene, conversation)
    const run = await scene.start(conversation)
    await scene.say(run, 'still ')
    await scene.publish()
    await pruneLog(scene.sql, ALL)
    await scene.say(run, 'here')
    await scene.publish()
    await pruneLog(scene.sql, ALL)

    expect(textOfEvents(await scene.events(conversation), run.messageId)).toBe('still here')
    await scene.end(run)
    expect(textOfEvents(await scene.events(conversation, 2), run.messageId)).toBe('still here')
  })

  test('of an unfinished turn stay although a waiting message was cancelled in its middle', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    await answer(scene, conversation)
    const run = await scene.start(conversation)
    const waiting = await scene.post(conversation)
    await scene.say(run, 'still ')
    const key = { organizationId: scene.organizationId, conversationId: conversation }
    await cancelRuns(scene, { ...key, runId: waiting.runId })
    await scene.say(run, 'here')
    await scene.publish()

    expect(await pruneLog(scene.sql, ALL)).toBe(1)
    expect(textOfEvents(await scene.events(conversation), run.messageId)).toBe('still here')
    await scene.end(run)
    expect(await pruneLog(scene.sql, ALL)).toBe(2)
    expect(await scene.events(conversation)).toEqual([])
  })

  test('are removed a batch at a time, the oldest first', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    for (let i = 0; i < 5; i++) await answer(scene, conversation)

    expect(await pruneLog(scene.sql, { ...ALL, turnsMax: 2 })).toBe(2)
    expect((await scene.events(conversation)).map((event) => event.seq)).toEqual([5, 6, 7, 8, 9, 10])
    expect(await pruneLog(scene.sql, { ...ALL, turnsMax: 2 })).toBe(2)
    expect(await pruneLog(scene.sql, { ...ALL, turnsMax: 2 })).toBe(1)
  })

  test('of a conversation that somebody holds are left to a later pass', async ({ world }) => {
    const scene = await createScene(world)
    const [held, free] = [await answer(scene, await scene.open()), await answer(scene, await scene.open())]
    const holder = await world.replica()
    const open = await scene.hold(
      holder.sql,
      (tx) => tx`select 1 from conversations where id = ${held.conversationId} for no key update`,
    )

    expect(await pruneLog(scene.sql, ALL)).toBe(1)
    expect(await scene.events(free.conversationId)).toEqual([])
    expect(await scene.events(held.conversationId)).toHaveLength(2)
    await open.release()
    expect(await pruneLog(scene.sql, ALL)).toBe(1)
    expect(await scene.events(held.conversationId)).toEqual([])
  })

  test('go on with the next number after a conversation was emptied', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    await answer(scene, conversation)
    await pruneLog(scene.sql, ALL)
    await answer(scene, conversation)
    expect((await scene.events(conversation)).map((event) => event.seq)).toEqual([3, 4])
  })
})

describe('the service', () => {
  const start = (world: World, scene: Scene) =>
    Promise.all(
      createRetention({ sql: scene.sql, log: world.log }, { ...KEEP, everyMs: 60_000, logKeepMs: 60_000 }).map(
        world.run,
      ),
    )

  async function count(scene: Scene, table: 'files' | 'dead_letters'): Promise<number> {
    const rows = await scene.sql`select 1 from ${scene.sql(table)} where organization_id = ${scene.organizationId}`
    return rows.length
  }

  test('removes files that nobody sent within an hour, and keeps the others', async ({ world }) => {
    const scene = await createScene(world)
    const conversationId = await scene.open()
    const place = { organizationId: scene.organizationId, conversationId, name: 'a', mediaType: 'text/plain' }
    const store = async () => (await storeFile(scene.sql, place, (async function* () {})())).id
    const ids = await Promise.all(Array.from({ length: 45 }, store))
    await scene.post(conversationId, { fileIds: [ids[0]!] })
    await scene.sql`
      update files set created_at = now() - interval '2 hours' where organization_id = ${scene.organizationId}`
    const recent = await store()
    await start(world, scene)

    await until(async () => expect(await count(scene, 'files')).toBe(2))
    const left = await scene.sql<{ id: string }[]>`select id from files where organization_id = ${scene.organizationId}`
    expect(left.map((file) => file.id).sort()).toEqual([ids[0]!, recent].sort())
  })

  test('removes dead letters that were kept long enough, and old events with them', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await scene.end(run, { status: 'failed', deadLetter: true })
    const kept = await scene.start(await scene.open())
    await scene.end(kept, { status: 'failed', deadLetter: true })
    await age(scene, run)
    await scene.sql`update dead_letters set created_at = now() - interval '31 days' where id = ${run.id}`
    await start(world, scene)

    await until(async () => expect(await count(scene, 'dead_letters')).toBe(1))
    await until(async () => expect(await scene.events(run.conversationId)).toEqual([]))
    expect(await scene.events(kept.conversationId)).toHaveLength(2)
  })

  test('removes replies to a conversation that was removed, and no others', async ({ world }) => {
    const scene = await createScene(world)
    const [gone, here] = [await scene.start(await scene.open()), await scene.start(await scene.open())]
    await scene.say(gone, 'for nobody')
    await scene.say(here, 'for somebody')
    await scene.sql`delete from conversations where id = ${gone.conversationId}`
    await start(world, scene)

    const waiting = () => scene.sql<{ id: string }[]>`
      select conversation_id as id from thread_response where organization_id = ${scene.organizationId}`
    await until(async () => expect(await waiting()).toEqual([{ id: here.conversationId }]))
  })

  test('removes the rest when one kind cannot be removed', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await scene.end(run, { status: 'failed', deadLetter: true })
    await scene.sql`update dead_letters set created_at = now() - interval '31 days' where id = ${run.id}`
    const holder = await world.replica()
    const locked = await scene.hold(holder.sql, (tx) => tx`lock table event_log in access exclusive mode`)
    await start(world, scene)

    await until(async () => expect(await count(scene, 'dead_letters')).toBe(0))
    await locked.release()
  })
})
