import { describe, expect } from 'vitest'
import { createScene, deltaLine, readEvents, replyBatch, type Scene, textOfEvents } from '../../tests/support/scene.ts'
import { requirePostgres, test } from '../../tests/support/world.ts'
import type { Sql } from '../db/client.ts'
import { readLogs } from '../sse/event-log.ts'
import { type LoggedEvent, parseEventLines } from '../sse/frames.ts'
import { insertReplies, publishReplies } from './thread-response.ts'

requirePostgres('writers, publishers and readers work at the same time')

const PAGE = { rowsMax: 500, afterId: 0 }

async function waitingRows(scene: Scene): Promise<number> {
  const rows = await scene.sql`select 1 from thread_response where organization_id = ${scene.organizationId}`
  return rows.length
}

/** How often an index of the queue was gone into. */
async function descents(sql: Sql): Promise<number> {
  await sql`select pg_stat_force_next_flush()`
  const [row] = await sql<{ scans: number }[]>`
    select sum(idx_scan)::int as scans from pg_stat_user_indexes where relname = 'thread_response'`
  return row!.scans
}

function fill(sql: Sql, run: { organizationId: string; conversationId: string }, rows: number) {
  return sql`
    insert into thread_response (organization_id, conversation_id, event_count, events)
    select ${run.organizationId}::text, ${run.conversationId}::text, 1, 'delta {}' from generate_series(1, ${rows}::int)`
}

// Each further one would be by an index that a plan of another day has chosen: made for an empty queue it may be that of
// conversations, in which an id is found by walking over all that wait.
test('a pass goes into an index once, however many replies it takes', async ({ world }) => {
  const scene = await createScene(world)
  const run = await scene.start(await scene.open())
  const { sql } = await world.replica({ poolMax: 1 })
  await fill(sql, run, 2_000)
  const before = await descents(sql)
  let passes = 0
  for (let afterId = 0, seen = 1; seen > 0; passes++) {
    const pass = await publishReplies(sql, { ...PAGE, afterId })
    seen = pass.seen
    afterId = Math.max(afterId, pass.highestId)
  }
  expect(await waitingRows(scene)).toBe(0)
  expect((await descents(sql)) - before).toBeLessThanOrEqual(passes)
})

describe('a batch of replies', () => {
  test('that is sent again is stored once, and the answer is the same', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    const batch = replyBatch(run, 1, [deltaLine(run, 'once')])

    expect(await insertReplies(scene.sql, [batch])).toEqual(new Set([run.id]))
    expect(await insertReplies(scene.sql, [batch])).toEqual(new Set([run.id]))
    expect(await waitingRows(scene)).toBe(1)
  })

  test('that is sent again while the first try is still under way is stored once, and both hear so', async ({
    world,
  }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    const batch = replyBatch(run, 1, [deltaLine(run, 'once')])
    const [first, second, holder] = await Promise.all([world.replica(), world.replica(), world.replica()])

    const locked = await scene.hold(holder.sql, (tx) => tx`select 1 from runs where id = ${run.id} for update`)
    const answers = [insertReplies(first.sql, [batch]), insertReplies(second.sql, [batch])]
    await scene.lockWaiters(2)
    await locked.release()

    expect(await Promise.all(answers)).toEqual([new Set([run.id]), new Set([run.id])])
    expect(await waitingRows(scene)).toBe(1)
  })

  test('is refused when one before it is missing', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())

    expect(await insertReplies(scene.sql, [replyBatch(run, 2, [deltaLine(run, 'later')])])).toEqual(new Set())
    expect(await waitingRows(scene)).toBe(0)
  })

  test('of a run that has ended is refused, beside one of another run that is taken', async ({ world }) => {
    const scene = await createScene(world)
    const [ended, alive] = [await scene.start(await scene.open()), await scene.start(await scene.open())]
    await scene.end(ended)

    const batches = [ended, alive].map((run) => replyBatch(run, 1, [deltaLine(run, 'words')]))
    expect(await insertReplies(scene.sql, batches)).toEqual(new Set([alive.id]))
  })

  test('that waits for the lock of an end is refused once that end is written', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    const holder = await world.replica()
    const ending = await scene.hold(
      holder.sql,
      (tx) => tx`update runs set state = 'cancelled', ended_at = now(), lease_until = null where id = ${run.id}`,
    )

    const answer = insertReplies(scene.sql, [replyBatch(run, 1, [deltaLine(run, 'too late')])])
    await scene.lockWaiters(1)
    await ending.release()
    expect(await answer).toEqual(new Set())
    expect(await waitingRows(scene)).toBe(0)
  })
})

describe('publishing', () => {
  test('numbers the events of a conversation without a gap, in the order in which they came', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await scene.say(run, 'a', 'b')
    await scene.say(run, 'c')
    await scene.publish()
    await scene.say(run, 'd', 'e')
    const published = await scene.publish()

    expect(published).toMatchObject([{ conversationId: run.conversationId, firstSeq: 4, lastSeq: 5 }])
    const events = await scene.events(run.conversationId)
    expect(events.map((event) => event.seq)).toEqual([1, 2, 3, 4, 5])
    expect(textOfEvents(events, run.messageId)).toBe('abcde')
    expect(await waitingRows(scene)).toBe(0)
  })

  test('leaves a conversation that somebody holds to a later pass, and serves the others', async ({ world }) => {
    const scene = await createScene(world)
    const [held, free] = [await scene.start(await scene.open()), await scene.start(await scene.open())]
    await scene.say(held, 'later')
    await scene.say(free, 'now')
    const holder = await world.replica()

    const open = await scene.hold(
      holder.sql,
      (tx) => tx`select 1 from conversations where id = ${held.conversationId} for no key update`,
    )
    expect((await scene.publish()).map((events) => events.conversationId)).toEqual([free.conversationId])
    await open.release()
    expect((await scene.publish()).map((events) => events.conversationId)).toEqual([held.conversationId])
    expect(textOfEvents(await scene.events(held.conversationId), held.messageId)).toBe('later')
  })

  test('takes a page at a time and comes to the end', async ({ world }) => {
    const scene = await createScene(world)
    const runs = await Promise.all([1, 2, 3].map(async () => scene.start(await scene.open())))
    for (const piece of ['a', 'b', 'c', 'd']) for (const run of runs) await scene.say(run, piece)

    for (let left = 12; left > 0; left -= 5) {
      const page = await publishReplies(scene.sql, { rowsMax: 5, afterId: 0 })
      expect(page.seen).toBe(Math.min(5, left))
    }
    for (const run of runs) {
      expect(textOfEvents(await scene.events(run.conversationId), run.messageId)).toBe('abcd')
    }
  })

  test('keeps the names of organizations apart where conversations have the same id', async ({ world }) => {
    const [mine, theirs] = [await createScene(world), await createScene(world)]
    const conversation = await mine.open()
    await theirs.sql`
      insert into conversations (organization_id, id, agent_id, user_id, thread)
      values (${theirs.organizationId}, ${conversation}, ${theirs.agentId}, 'u', 't')`
    const [run, other] = [await mine.start(conversation), await theirs.start(conversation)]
    await mine.say(run, 'mine')
    await theirs.say(other, 'theirs')
    await mine.publish()

    expect(textOfEvents(await mine.events(conversation), run.messageId)).toBe('mine')
    expect(textOfEvents(await theirs.events(conversation), other.messageId)).toBe('theirs')
  })
})

describe('under load', () => {
  const WRITERS = 8
  const ROWS = 60

  /** Harder than the product makes it: so many write to one conversation at once, each in an order of its own. */
  async function writeRows(sql: Sql, key: { organizationId: string; conversationId: string }, writer: number) {
    for (let i = 0; i < ROWS; i++) {
      const events = `output {"writer":${writer},"i":${2 * i}}\noutput {"writer":${writer},"i":${2 * i + 1}}`
      await sql`
        insert into thread_response (organization_id, conversation_id, event_count, events)
        values (${key.organizationId}, ${key.conversationId}, 2, ${events})`
    }
  }

  test('a reader that follows the log misses nothing and gets nothing twice, whoever writes and publishes', async ({
    world,
  }) => {
    const scene = await createScene(world)
    const conversationId = await scene.open()
    const key = { organizationId: scene.organizationId, conversationId }
    const writers = await world.replica({ poolMax: WRITERS })
    const publishers = await Promise.all([1, 2, 3].map(() => world.replica()))
    const total = WRITERS * ROWS * 2
    const read: LoggedEvent[] = []

    async function follow() {
      while (read.length < total) {
        const rows = await readLogs(scene.sql, [{ ...key, after: read.at(-1)?.seq ?? 0 }])
        read.push(...rows.flatMap((row) => parseEventLines(row.events, row.firstSeq)))
      }
    }
    async function publish(sql: Sql) {
      while (read.length < total) await publishReplies(sql, { ...PAGE, rowsMax: 7 })
    }
    await Promise.all([
      follow(),
      ...publishers.map(({ sql }) => publish(sql)),
      ...Array.from({ length: WRITERS }, (_, writer) => writeRows(writers.sql, key, writer)),
    ])

    expect(read.map((event) => event.seq)).toEqual(Array.from({ length: total }, (_, i) => i + 1))
    const data = read.map((event) => JSON.parse(event.data) as { writer: number; i: number })
    for (let writer = 0; writer < WRITERS; writer++) {
      const own = data.filter((one) => one.writer === writer).map((one) => one.i)
      expect(own).toEqual(Array.from({ length: ROWS * 2 }, (_, i) => i))
    }
    expect(await readEvents(scene.sql, key)).toEqual(read)
  })

  test('ends and publishers take turns on a conversation without a gap or a loss', async ({ world }) => {
    const scene = await createScene(world)
    const conversationId = await scene.open()
    const publishers = await Promise.all([1, 2].map(() => world.replica()))
    let over = false
    const publishing = publishers.map(async ({ sql }) => {
      while (!over) await publishReplies(sql, PAGE)
    })

    for (let turn = 0; turn < 20; turn++) {
      const run = await scene.start(conversationId)
      for (const piece of ['one ', 'two ', 'three']) await scene.say(run, piece)
      await scene.end(run)
    }
    over = true
    await Promise.all(publishing)

    const events = await scene.events(conversationId)
    expect(events).toHaveLength(20 * 4)
    const names = events.map((event) => event.name).join(' ')
    expect(names).toBe(Array(20).fill('output output output complete').join(' '))
    expect(await waitingRows(scene)).toBe(0)
  })
})
