import { describe, expect, vi } from 'vitest'
import { PATIENT } from '../../tests/support/http.ts'
import { type ConversationKey, createStreamWorld, type StreamWorld } from '../../tests/support/streams.ts'
import { test, type World } from '../../tests/support/world.ts'
import type { Sql } from '../db/client.ts'
import { type LogRow, pruneLog } from './event-log.ts'
import type { LoggedEvent } from './frames.ts'
import { type Channel, channelKey, createTail, type Tail } from './tail.ts'

const HOUR_MS = 3_600_000

describe('whatever is offered, a channel gets each event once and in order', () => {
  test.for(Array.from({ length: 40 }, (_, i) => i + 1))('seed %d', async (seed, { world }) => {
    const random = createRandom(seed)
    const streams = await createStreamWorld(world)
    const keys = [await streams.conversation(), await streams.conversation(), await streams.conversation()]
    const sql = delayed(streams.sql, random)
    const tail = await world.run(createTail({ sql, log: world.log }, { pollMs: () => HOUR_MS }))
    const heard: LogRow[] = []
    let channels = keys.map((key) => followFrom(tail, key, 0))
    const all = [...channels]

    const steps: Record<string, () => Promise<void> | void> = {
      async publish() {
        heard.push(await publishSome(streams, pick(random, keys), random))
      },
      offerOne: () => offer([pick(random, heard)]),
      offerInAnyOrder: () => offer(shuffle(random, heard).slice(0, 1 + int(random, 5))),
      offerLatest: () => offer(heard.slice(-1 - int(random, 3))),
      forgetSome() {
        heard.splice(int(random, heard.length), 1 + int(random, 3))
      },
      suspectOne: () => tail.suspect(keyOf(pick(random, keys))),
      suspectAll: () => tail.suspect(),
      pause: () => pause(int(random, 4)),
      async refollow() {
        const i = int(random, channels.length)
        tail.unfollow(channels[i]!)
        if (random() < 0.5) await pause(int(random, 3))
        channels = channels.with(i, followFrom(tail, keys[i]!, int(random, channels[i]!.head + 1)))
        all.push(channels[i]!)
      },
    }
    const offer = (rows: (LogRow | undefined)[]) => tail.offer(rows.filter((row) => row !== undefined))
    const names = Object.keys(steps)
    for (let i = 0; i < 120; i++) await steps[pick(random, names)!]!()

    for (const key of keys) await publishSome(streams, key, random)
    tail.suspect()
    for (const channel of channels) {
      const last = await lastSeq(streams, channel)
      await vi.waitFor(() => expect(channel.head).toBe(last), PATIENT)
    }
    for (const channel of all) {
      expect(channel.gaps, 'nothing was removed').toBe(0)
      expect(channel.events.map((event) => event.seq)).toEqual(range(channel.start + 1, channel.head))
      expect(channel.events.map((event) => event.data)).toEqual(range(channel.start + 1, channel.head).map(dataOf))
    }
  })
})

test('a row that continues the channel is handed on at once, without a query', async ({ world }) => {
  const { streams, key, tail, channel } = await createStage(world)
  const queries = vi.fn()
  streams.onQuery(queries)
  tail.offer([await streams.publish(key, events(1, 3))])
  expect(channel.head).toBe(3)
  expect(queries).not.toHaveBeenCalled()
})

test('a row that overlaps what is known gives only the rest', async ({ world }) => {
  const { streams, key, tail, channel } = await createStage(world)
  const [first, second] = [await streams.publish(key, events(1, 2)), await streams.publish(key, events(3, 4))]
  tail.offer([first])
  const joined = { ...second, firstSeq: 1, events: `${first.events}\n${second.events}` }
  tail.offer([joined])
  expect(channel.events.map((event) => event.data)).toEqual(range(1, 4).map(dataOf))
})

test('a row whose text does not hold the events that its numbers promise is not believed', async ({ world }) => {
  const { streams, key, tail, channel } = await createStage(world)
  const row = await streams.publish(key, events(1, 3))
  tail.offer([{ ...row, events: row.events.slice(0, row.events.lastIndexOf('\n')) }])
  await vi.waitFor(() => expect(channel.head).toBe(3), PATIENT)
  expect(channel.events.map((event) => event.data)).toEqual(range(1, 3).map(dataOf))
  expect(channel.gaps).toBe(0)
})

test('a gap is filled from the log, however long it is', async ({ world }) => {
  const { streams, key, tail, channel } = await createStage(world)
  let last = 0
  for (let i = 0; i < 150; i++) last = (await streams.publish(key, events(last + 1, last + 2))).lastSeq
  tail.offer([await streams.publish(key, events(last + 1, last + 1))])
  await vi.waitFor(() => expect(channel.head).toBe(last + 1), PATIENT)
  expect(channel.events.map((event) => event.seq)).toEqual(range(1, last + 1))
})

test('what was published before the follow, and rang for nobody, is found', async ({ world }) => {
  const { streams, tail } = await createStage(world)
  const key = await streams.conversation()
  await streams.publish(key, events(1, 2))
  const channel = followFrom(tail, key, 0)
  await vi.waitFor(() => expect(channel.head).toBe(2), PATIENT)
})

test('without any doorbell everything arrives by polling', async ({ world }) => {
  const { streams } = await createStage(world)
  const key = await streams.conversation()
  const tail = await world.run(createTail({ sql: streams.sql, log: world.log }, { pollMs: () => 30 }))
  const channel = followFrom(tail, key, 0)
  for (let round = 0; round < 3; round++) {
    const { lastSeq } = await streams.publish(key, events(round * 2 + 1, round * 2 + 2))
    await vi.waitFor(() => expect(channel.head).toBe(lastSeq), PATIENT)
  }
})

test('a query that fails is repeated until it works; nothing is lost', async ({ world }) => {
  const { streams, key, tail, channel } = await createStage(world)
  let failures = 0
  streams.onQuery(() => {
    if (failures++ < 3) throw new Error('the database is away')
  })
  await streams.publish(key, events(1, 2))
  tail.suspect(keyOf(key))
  await vi.waitFor(() => expect(channel.head).toBe(2), PATIENT)
  expect(failures).toBeGreaterThan(3)
})

test('more conversations than fit into one query are all looked at', async ({ world }) => {
  const { streams, tail } = await createStage(world)
  const keys = await Promise.all(range(1, 450).map(() => streams.conversation()))
  const channels = keys.map((key) => followFrom(tail, key, 0))
  await settle(tail)
  await Promise.all(keys.map((key) => streams.publish(key, events(1, 1))))
  tail.suspect()
  await vi.waitFor(() => expect(channels.filter((channel) => channel.head !== 1)).toEqual([]), PATIENT)
})

test('an unfollowed channel hears nothing any more', async ({ world }) => {
  const { streams, key, tail, channel } = await createStage(world)
  tail.unfollow(channel)
  tail.offer([await streams.publish(key, events(1, 1))])
  tail.suspect()
  await settle(tail)
  expect(channel.events).toEqual([])
})

test('unfollowing a channel leaves the one that took its place', async ({ world }) => {
  const { streams, key, tail, channel } = await createStage(world)
  const next = followFrom(tail, key, 0)
  tail.unfollow(channel)
  tail.offer([await streams.publish(key, events(1, 1))])
  expect(next.head).toBe(1)
  expect(channel.head).toBe(0)
})

describe('what was removed', () => {
  test('shows as a gap when something newer is left', async ({ world }) => {
    const { streams, key, tail, channel } = await createStage(world)
    await streams.publish(key, events(1, 2))
    await streams.endTurn(key)
    await pruneLog(streams.sql, { keepMs: 1, turnsMax: 1 })
    tail.offer([await streams.publish(key, events(3, 3))])
    await vi.waitFor(() => expect(channel.gaps).toBe(1), PATIENT)
    expect(channel.events).toEqual([])
  })

  test('shows as a gap when nothing is left at all', async ({ world }) => {
    const { streams, key, tail, channel } = await createStage(world)
    await streams.publish(key, events(1, 2))
    await streams.endTurn(key)
    await pruneLog(streams.sql, { keepMs: 1, turnsMax: 1 })
    tail.suspect(keyOf(key))
    await vi.waitFor(() => expect(channel.gaps).toBe(1), PATIENT)
  })
})

describe('the end', () => {
  test('is told once, behind the last event', async ({ world }) => {
    const { streams, key, tail, channel } = await createStage(world)
    const rows: LogRow[] = []
    for (let i = 0; i < 70; i++) rows.push(await streams.publish(key, events(i + 1, i + 1)))
    await streams.sql`update conversations set status = 'ended' where id = ${key.conversationId}`
    tail.suspect(keyOf(key))
    await vi.waitFor(() => expect(channel.ends).toEqual([70]), PATIENT)
    tail.offer(rows)
    expect(channel.ends).toEqual([70])
  })

  test('is told of a conversation that is gone', async ({ world }) => {
    const { streams, key, tail, channel } = await createStage(world)
    await streams.sql`delete from conversations where id = ${key.conversationId}`
    tail.suspect(keyOf(key))
    await vi.waitFor(() => expect(channel.ends).toEqual([0]), PATIENT)
  })

  test("does not touch other conversations, nor another organization's of the same name", async ({ world }) => {
    const { streams, key, tail, channel } = await createStage(world)
    const other = await createStreamWorld(world)
    const twin = { ...(await other.conversation()), conversationId: key.conversationId }
    await other.sql`update conversations set id = ${key.conversationId} where organization_id = ${twin.organizationId}`
    const twinChannel = followFrom(tail, twin, 0)
    await streams.sql`
      update conversations set status = 'ended'
      where organization_id = ${twin.organizationId} and id = ${twin.conversationId}`
    tail.suspect()
    await vi.waitFor(() => expect(twinChannel.ends).toEqual([0]), PATIENT)
    tail.offer([await streams.publish(key, events(1, 1))])
    expect([channel.head, twinChannel.head]).toEqual([1, 0])
    expect(channel.ends).toEqual([])
  })
})

interface Follower extends Channel {
  start: number
  events: LoggedEvent[]
  gaps: number
  /** The head at each time that the end was told. */
  ends: number[]
}

function followFrom(tail: Tail, key: ConversationKey, start: number): Follower {
  const channel: Follower = {
    ...{ ...key, start, head: start, events: [], gaps: 0, ends: [] },
    onEvents: (fresh) => void channel.events.push(...fresh),
    onGap() {
      channel.gaps++
      tail.unfollow(channel)
    },
    onEnded() {
      channel.ends.push(channel.head)
      tail.unfollow(channel)
    },
  }
  tail.follow(channel)
  return channel
}

/** A conversation and a tail that follows it from its start, has looked at it once, and never polls. */
async function createStage(world: World) {
  const streams = await createStreamWorld(world)
  const key = await streams.conversation()
  let listener = () => {}
  const sql = ((...args: Parameters<Sql>) => {
    listener()
    return streams.sql(...args)
  }) as Sql
  const tail = await world.run(createTail({ sql, log: world.log }, { pollMs: () => HOUR_MS }))
  const channel = followFrom(tail, key, 0)
  await settle(tail)
  const onQuery = (listen: () => void) => {
    listener = listen
  }
  return { streams: { ...streams, onQuery }, key, tail, channel }
}

/** Resolves when all that was asked of the tail before is done: the first pass may have begun earlier. */
async function settle(tail: Tail) {
  for (let i = 0; i < 2; i++) {
    const at = performance.now()
    tail.ring()
    // The age is read last, so that a pause between the two clocks makes the pass no younger than it is.
    await vi.waitFor(() => expect(performance.now() - tail.ageMs()).toBeGreaterThan(at), PATIENT)
  }
}

/** Answers of the database come late, at random, so that offers fall between a question and its answer. */
function delayed(sql: Sql, random: () => number): Sql {
  return (async (...args: Parameters<Sql>) => {
    await pause(int(random, 3))
    const rows = await sql(...args)
    await pause(int(random, 5))
    return rows
  }) as unknown as Sql
}

async function publishSome(streams: StreamWorld, key: ConversationKey, random: () => number): Promise<LogRow> {
  const first = (await lastSeq(streams, key)) + 1
  return streams.publish(key, events(first, first + int(random, 4)))
}

async function lastSeq({ sql }: StreamWorld, key: ConversationKey): Promise<number> {
  const [row] = await sql<{ seq: number }[]>`
    select last_seq as seq from conversations where organization_id = ${key.organizationId} and id = ${key.conversationId}`
  return row!.seq
}

function events(first: number, last: number): [string, Record<string, unknown>][] {
  return range(first, last).map((n) => ['output', { n }])
}

const dataOf = (n: number) => `{"n":${n}}`
const keyOf = (key: ConversationKey) => channelKey(key.organizationId, key.conversationId)
const range = (first: number, last: number) =>
  Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i)
const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))
const int = (random: () => number, below: number) => Math.floor(random() * below)
const pick = <T>(random: () => number, items: T[]) => items[int(random, items.length)] as T

function shuffle<T>(random: () => number, items: T[]): T[] {
  return items
    .map((item) => ({ item, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item)
}

/** The same numbers for the same seed (mulberry32). */
function createRandom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}
