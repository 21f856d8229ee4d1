import { describe, expect, vi } from 'vitest'
import { PATIENT } from '../../tests/support/http.ts'
import { connectSse, followSse } from '../../tests/support/sse-client.ts'
import {
  type ConversationKey,
  createStreamWorld,
  type StreamReplica,
  type StreamWorld,
} from '../../tests/support/streams.ts'
import { test, type World } from '../../tests/support/world.ts'
import type { Sql } from '../db/client.ts'
import type { Loop } from '../lib/loop.ts'
import { createPublisher } from '../queue/publisher.ts'
import type { PublishedEvents } from '../queue/thread-response.ts'
import { encodeEventLine } from './frames.ts'

const delta = (content: string): [string, Record<string, unknown>] => ['output', { type: 'delta', content }]

describe('one stream', () => {
  test('a fresh stream gets the turn that is unfinished, then what comes, each event once', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replica = await streams.startReplica()
    await streams.publish(key, [delta('old answer'), ['complete', { messageId: 'm0' }]])
    await streams.endTurn(key)
    await streams.publish(key, [delta('Hel'), delta('lo')])

    const client = await connectSse(replica.url(key))
    await client.waitForId(4)
    replica.signals.published([await streams.publish(key, [delta(' 🌍')])])
    await client.waitForId(5)
    replica.signals.published([await streams.publish(key, [['complete', { messageId: 'm1' }]])])
    await client.waitForId(6)

    expect(client.all.map(({ id, name }) => [id, name])).toEqual([
      [undefined, 'connected'],
      [3, 'output'],
      [4, 'output'],
      [5, 'output'],
      [6, 'complete'],
    ])
    expect(client.all[0]!.data).toMatchObject({ agentId: key.conversationId, conversationId: key.conversationId })
    expect(client.events.map((event) => event.data.content ?? '').join('')).toBe('Hello 🌍')
  })

  test('the head says that nobody on the way may buffer, change or compress it', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const replica = await streams.startReplica()
    const client = await connectSse(replica.url(await streams.conversation()), {
      headers: { 'accept-encoding': 'gzip, br' },
    })
    expect(client.status).toBe(200)
    expect(client.headers).toMatchObject({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
      'x-request-id': expect.any(String),
      'content-security-policy': "frame-ancestors 'none'",
    })
    expect(client.headers['content-encoding']).toBeUndefined()
    client.cut()
  })

  test('a stream that is cut after any byte resumes so that nothing is missing and nothing comes twice', async ({
    world,
  }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replicas = [await streams.startReplica(), await streams.startReplica()]
    await streams.publish(key, [delta('a'), delta('é 🌍')])
    await streams.publish(key, [['tool-use', { name: 'clock', phase: 'start' }]])
    await streams.publish(key, [delta('bc'), ['complete', { finalText: 'aé 🌍bc' }]])

    const whole = await connectSse(replicas[0]!.url(key))
    await whole.waitForId(5)
    whole.cut()
    const cutAndResume = async (bytes: number) => {
      const client = await connectSse(replicas[0]!.url(key), { cutAfterBytes: bytes })
      await client.closed
      const after = await connectSse(replicas[1]!.url(key), {
        ...(client.lastEventId === undefined ? {} : { lastEventId: client.lastEventId }),
      })
      if (client.lastEventId !== 5) await after.waitForId(5)
      after.cut()
      return { before: client.events, after: after.events }
    }
    const cuts = Array.from({ length: whole.bytes }, (_, k) => k + 1)
    const results = await inLanes(8, cuts, cutAndResume)
    for (const { before, after } of results) expect([...before, ...after]).toEqual(whole.events)
    expect(new Set(results.map(({ before }) => before.length))).toEqual(new Set([0, 1, 2, 3, 4, 5]))
  })

  test('a number that was never given gets a reset instead of silence', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replica = await streams.startReplica()
    await streams.publish(key, [delta('a')])
    const client = await connectSse(replica.url(key), { lastEventId: 99 })
    const reset = await client.waitFor((event) => event.name === 'reset')
    expect(reset.data).toMatchObject({ oldest: 1, snapshot: { conversationId: key.conversationId } })
    await client.waitForId(1)
    client.cut()
  })
})

describe('many streams', () => {
  test('200 streams that join at random moments of a fast reply on two replicas each see all of it', async ({
    world,
  }) => {
    const EVENTS = 1_000
    const STREAMS = 200
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    // One of them gives its other work a turn after every few streams.
    const replicas = [await streams.startReplica({ slice: 7 }), await streams.startReplica()]
    const published = await startProducer(world, { streams, replicas, key, count: EVENTS })

    const lastEventIds: number[] = []
    const clients = await Promise.all(
      Array.from({ length: STREAMS }, async (_, i) => {
        await published.reached(Math.floor(Math.random() * EVENTS * 0.9))
        const fresh = i % 2 === 0
        const lastEventId = Math.floor(Math.random() * published.count())
        lastEventIds[i] = fresh ? 0 : lastEventId
        return connectSse(replicas[i % 3 ? 0 : 1]!.url(key), fresh ? {} : { lastEventId })
      }),
    )
    await Promise.all(clients.map((client) => client.waitForId(EVENTS)))
    for (const [i, client] of clients.entries()) {
      const expected = Array.from({ length: EVENTS - lastEventIds[i]! }, (_, n) => lastEventIds[i]! + n + 1)
      expect(client.events.map((event) => event.id)).toEqual(expected)
      expect(client.events.map((event) => event.data.content)).toEqual(expected.map(String))
    }
    for (const client of clients) client.cut()
    await vi.waitFor(() => expect(replicas.map((replica) => replica.sse.count())).toEqual([0, 0]), PATIENT)
  })

  test('a stream that breaks again and again during a fast reply misses nothing', async ({ world }) => {
    const EVENTS = 600
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replicas = [await streams.startReplica()]
    await startProducer(world, { streams, replicas, key, count: EVENTS })
    const { events, connections } = await followSse(replicas[0]!.url(key), {
      until: (event) => event.id === EVENTS,
      cutAfterBytes: () => 100 + Math.floor(Math.random() * 4_000),
    })
    expect(events.map((event) => event.id)).toEqual(Array.from({ length: EVENTS }, (_, i) => i + 1))
    expect(connections.length).toBeGreaterThan(5)
  })

  test('streams of different conversations never see each other', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const replica = await streams.startReplica()
    const keys = await Promise.all(Array.from({ length: 20 }, () => streams.conversation()))
    const clients = await Promise.all(keys.map((key) => connectSse(replica.url(key))))
    for (let round = 0; round < 5; round++) {
      const rows = await Promise.all(keys.map((key) => streams.publish(key, [delta(key.conversationId)])))
      replica.signals.published(rows)
    }
    await Promise.all(clients.map((client) => client.waitForId(5)))
    for (const [i, client] of clients.entries()) {
      expect(client.events.map((event) => event.data.content)).toEqual(Array(5).fill(keys[i]!.conversationId))
    }
  })
})

describe('the end of a conversation', () => {
  test('every stream gets all events, then closed, wherever it is', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replicas = [await streams.startReplica({ slice: 1 }), await streams.startReplica()]
    const clients = await Promise.all([...replicas, ...replicas].map((replica) => connectSse(replica.url(key))))
    await streams.publish(key, [delta('last words'), ['complete', { status: 'cancelled' }]])
    await end(streams.sql, key)
    replicas[0]!.signals.conversationEnded(key)

    for (const client of clients) {
      expect(await client.closed).toBe(true)
      expect(client.all.map((event) => event.name)).toEqual(['connected', 'output', 'complete', 'closed'])
      expect(client.all.at(-1)!.data).toEqual({ reason: 'ended' })
      expect(client.retryMs).toBeUndefined()
    }
    expect(replicas.map((replica) => replica.sse.count())).toEqual([0, 0])
  })

  test('a slow reader is told only behind the last event', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replica = await streams.startReplica()
    const slow = await connectSse(replica.url(key), { stalled: true })
    const quick = await connectSse(replica.url(key))
    const count = 200
    for (let i = 1; i <= count; i++) {
      replica.signals.published([await streams.publish(key, [delta(`${i}`.padEnd(100_000, '.'))])])
    }
    await end(streams.sql, key)
    replica.signals.conversationEnded(key)
    await quick.closed
    expect(slow.isClosed).toBe(false)
    slow.resume()
    expect(await slow.closed).toBe(true)
    for (const client of [quick, slow]) {
      expect(client.events.map((event) => event.id)).toEqual(Array.from({ length: count }, (_, i) => i + 1))
      expect(client.all.at(-1)).toMatchObject({ name: 'closed' })
    }
  })

  test('a stream that opens while its conversation is being ended is closed as well', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    // Between the look at the conversation and the stream, where the doorbell rings for nobody.
    const beforeAttach = async () => {
      await streams.publish(key, [delta('bye')])
      await end(streams.sql, key)
    }
    const replica = await streams.startReplica({ beforeAttach, deaf: true, pollMs: 600_000 })
    const client = await connectSse(replica.url(key))
    expect(await client.closed).toBe(true)
    expect(client.all.map((event) => event.name)).toEqual(['connected', 'output', 'closed'])
  })

  test('a conversation that is removed closes its streams at the next poll', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replica = await streams.startReplica({ deaf: true, pollMs: 50 })
    const client = await connectSse(replica.url(key))
    await streams.sql`delete from conversations where id = ${key.conversationId}`
    expect(await client.closed).toBe(true)
    expect(client.all.at(-1)).toMatchObject({ name: 'closed' })
  })
})

/** Runs `work` over the items, at most `lanes` at a time, results in order. */
async function inLanes<T, R>(lanes: number, items: T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  let next = 0
  const lane = async () => {
    for (let i = next++; i < items.length; i = next++) results[i] = await work(items[i]!)
  }
  await Promise.all(Array.from({ length: lanes }, lane))
  return results
}

async function end(sql: Sql, key: ConversationKey) {
  await sql`
    update conversations set status = 'ended', resumable = false
    where organization_id = ${key.organizationId} and id = ${key.conversationId}`
}

/** Puts numbered deltas on the queue, about one a millisecond; the replicas' publishers compete for them. */
async function startProducer(
  world: World,
  {
    streams,
    replicas,
    key,
    count,
  }: { streams: StreamWorld; replicas: StreamReplica[]; key: ConversationKey; count: number },
) {
  const waiting = new Set<{ at: number; resolve(): void }>()
  const publishers: Loop[] = []
  let published = 0
  for (const { db, signals } of replicas) {
    const onPublished = (rows: PublishedEvents[]) => {
      published = Math.max(published, ...rows.map((row) => row.lastSeq))
      for (const waiter of [...waiting].filter(({ at }) => at <= published)) {
        waiting.delete(waiter)
        waiter.resolve()
      }
      signals.published(rows)
    }
    const deps = { sql: db.sql, log: world.log, onPublished }
    publishers.push(await world.run(createPublisher(deps, { pollMs: 1_000 })))
  }
  let given = 0
  async function produce() {
    while (given < count) {
      const size = Math.min(1 + Math.floor(Math.random() * 5), count - given)
      const lines = Array.from({ length: size }, (_, i) => encodeEventLine(...delta(String(given + i + 1))))
      await streams.sql`
        insert into thread_response (organization_id, conversation_id, event_count, events)
        values (${key.organizationId}, ${key.conversationId}, ${size}, ${lines.join('\n')})`
      given += size
      for (const publisher of publishers) publisher.ring()
    }
  }
  const produced = produce()
  world.defer(() => produced)
  return {
    count: () => published,
    reached: (at: number) =>
      new Promise<void>((resolve) => (published >= at ? resolve() : waiting.add({ at, resolve }))),
  }
}
