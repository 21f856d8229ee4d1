import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, vi } from 'vitest'
import { PATIENT, sendRaw } from '../../tests/support/http.ts'
import { connectSse, type SseClient } from '../../tests/support/sse-client.ts'
import { createStreamWorld, type StreamReplica, type StreamWorld } from '../../tests/support/streams.ts'
import { test } from '../../tests/support/world.ts'
import { type Actor, actorWithAll } from '../domain/accounts/actor.ts'
import { AppError } from '../lib/errors.ts'
import { hasOpenStream } from './presence.ts'

const isConnected = ({ name }: { name: string }) => name === 'connected'
const isPing = ({ name }: { name: string }) => name === 'ping'

describe('bounds', () => {
  test('one stream too many of a conversation closes its oldest, and no other', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const [key, other] = [await streams.conversation(), await streams.conversation()]
    const replica = await streams.startReplica({ streamsPerConversationMax: 3 })
    const bystander = await connectSse(replica.url(other))
    const clients: SseClient[] = []
    for (let i = 0; i < 5; i++) {
      const client = await connectSse(replica.url(key))
      await client.waitFor(isConnected)
      clients.push(client)
    }
    for (const client of clients.slice(0, 2)) {
      expect(await client.closed).toBe(true)
      expect(client.all.at(-1)).toMatchObject({ name: 'closed', data: { reason: 'replaced' } })
    }
    expect(replica.sse.count()).toBe(4)
    replica.signals.published([await streams.publish(key, [['output', {}]])])
    await Promise.all(clients.slice(2).map((client) => client.waitForId(1)))
    expect(bystander.isClosed).toBe(false)
  })

  test('a full replica answers 503 with Retry-After, and takes a stream again when one has gone', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replica = await streams.startReplica({ streamsMax: 2 })
    const [first] = [await connectSse(replica.url(key)), await connectSse(replica.url(key))]
    const refused = await fetch(replica.url(key))
    expect(refused.status).toBe(503)
    expect(refused.headers.get('retry-after')).toBe('5')
    expect(await refused.json()).toMatchObject({ success: false, code: 'too_many_streams' })

    first.cut()
    await vi.waitFor(() => expect(replica.sse.count()).toBe(1), PATIENT)
    expect((await connectSse(replica.url(key))).status).toBe(200)
  })

  test('a rush of clients cannot pass the bound', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replica = await streams.startReplica({ streamsMax: 10 })
    const clients = await Promise.all(Array.from({ length: 60 }, () => connectSse(replica.url(key))))
    expect(clients.map((client) => client.status).sort()).toEqual([...Array(10).fill(200), ...Array(50).fill(503)])
    expect(replica.sse.count()).toBe(10)
  })
})

describe('a credential that is taken away', () => {
  test('ends the streams that it opened, once something is said to have changed', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const { organizationId } = key
    const actor = actorWithAll({ organizationId, organizationSlug: organizationId, userId: 'user' })
    let answer: () => Promise<Actor> = async () => actor
    let asked = 0
    const authenticateAgain = () => {
      asked++
      return answer()
    }
    const replica = await streams.startReplica({ pingMs: 160, authenticateAgain })
    const client = await connectSse(replica.url(key))
    await vi.waitUntil(() => asked === 1, PATIENT)

    answer = () => Promise.reject(new Error('the database is away'))
    replica.sse.recheck()
    await vi.waitUntil(() => asked === 2, PATIENT)
    const pings = client.all.filter(isPing).length
    await vi.waitUntil(() => client.all.filter(isPing).length > pings + 1, PATIENT)
    expect([asked, client.isClosed]).toEqual([2, false])

    answer = () => Promise.reject(new AppError('unauthenticated', 'revoked'))
    replica.sse.recheck()
    expect(await client.closed).toBe(true)
    expect(client.all.at(-1)).toMatchObject({ name: 'closed', data: { reason: 'unauthorized' } })
    expect(replica.sse.count()).toBe(0)
  })
})

describe('streams that go', () => {
  test('500 that are reset leave no stream, no row and no socket behind', async ({ world }) => {
    const STREAMS = 500
    const streams = await createStreamWorld(world)
    const keys = await Promise.all(Array.from({ length: 50 }, () => streams.conversation()))
    const replica = await streams.startReplica()
    const clients = await connectMany(replica, streams, { keys, count: STREAMS })
    expect(replica.sse.count()).toBe(STREAMS)
    expect(await hasOpenStream(streams.sql, keys[0]!)).toBe(true)

    for (const client of clients) client.cut()
    await vi.waitFor(() => expect(replica.sse.count()).toBe(0), PATIENT)
    await vi.waitFor(async () => expect(await rowsOf(streams, replica)).toBe(0), PATIENT)
    expect(await hasOpenStream(streams.sql, keys[0]!)).toBe(false)

    const collectGarbage = exposeGc()
    await vi.waitFor(() => {
      collectGarbage()
      const kept = replica.sockets.filter((socket) => socket.deref() !== undefined)
      expect(kept.length).toBeLessThan(STREAMS * 0.05)
    }, PATIENT)
  })

  test('a client that is gone before its stream begins leaves nothing behind', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const going = new AbortController()
    const replica = await streams.startReplica({
      async beforeAttach() {
        going.abort()
        await vi.waitFor(() => expect(replica.sockets[0]?.deref()?.destroyed ?? true).toBe(true), PATIENT)
      },
    })
    await expect(fetch(replica.url(key), { signal: going.signal })).rejects.toThrow()
    await vi.waitFor(async () => expect(await rowsOf(streams, replica)).toBe(0), PATIENT)
    expect(replica.sse.count()).toBe(0)
  })

  test('a stream asked for behind an unanswered request on one connection is empty, and nothing waits for it', async ({
    world,
  }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replica = await streams.startReplica()
    const { port, pathname } = new URL(replica.url(key))
    const ask = (extra = '') => `GET ${pathname} HTTP/1.1\r\nhost: localhost\r\n${extra}\r\n`
    const unanswered = ask('last-event-id: nonsense\r\n')
    const answer = await sendRaw(Number(port), unanswered + ask() + ask('connection: close\r\n'))
    expect(answer).toContain('0\r\n\r\n')
    expect(replica.sse.count()).toBe(0)
  })

  test('a client that says goodbye by FIN is gone as well', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const replica = await streams.startReplica()
    const leaving = new AbortController()
    const response = await fetch(replica.url(await streams.conversation()), { signal: leaving.signal })
    expect(response.status).toBe(200)
    expect(replica.sse.count()).toBe(1)
    leaving.abort()
    await vi.waitFor(() => expect(replica.sse.count()).toBe(0), PATIENT)
  })
})

describe('pings', () => {
  test('every stream gets them again and again, and not all in one tick', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replica = await streams.startReplica({ pingMs: 320 })
    const clients = await Promise.all(Array.from({ length: 40 }, () => connectSse(replica.url(key))))
    await Promise.all(
      clients.map((client) => vi.waitFor(() => expect(client.all.filter(isPing).length).toBeGreaterThan(1), PATIENT)),
    )
    const firsts = clients.map((client) => client.all.find(isPing)!.data.timestamp)
    expect(Math.abs(firsts[0] - Date.now())).toBeLessThan(60_000)
    expect(new Set(firsts).size).toBeGreaterThan(4)
  })

  test('they do not count: the numbers of events stay consecutive', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replica = await streams.startReplica({ pingMs: 16 })
    const client = await connectSse(replica.url(key))
    for (let i = 1; i <= 20; i++) {
      replica.signals.published([await streams.publish(key, [['output', { i }]])])
      await client.waitForId(i)
    }
    expect(client.events.map((event) => event.id)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1))
    expect(client.all.filter(isPing).length).toBeGreaterThan(0)
  })
})

describe('stop', () => {
  test('sends every client away with a time to come back, and ends all; twice is harmless', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const keys = [await streams.conversation(), await streams.conversation()]
    const replica = await streams.startReplica()
    const clients = await connectMany(replica, streams, { keys, count: 60 })
    await Promise.all([replica.sse.stop(), replica.sse.stop()])
    for (const client of clients) {
      expect(await client.closed).toBe(true)
      expect(client.retryMs).toBeGreaterThanOrEqual(500)
      expect(client.retryMs).toBeLessThanOrEqual(2_000)
    }
    expect(new Set(clients.map((client) => client.retryMs)).size, 'not all at the same moment').toBeGreaterThan(10)
    expect(replica.sse.count()).toBe(0)

    const refused = await fetch(replica.url(keys[0]!))
    expect(refused.status).toBe(503)
    expect(await refused.json()).toMatchObject({ code: 'draining' })
  })

  test('also refuses who was admitted before, so that no stream outlives it', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replica = await streams.startReplica({ beforeAttach: () => replica.sse.stop() })
    const refused = await fetch(replica.url(key))
    expect(refused.status).toBe(503)
    expect(await refused.text()).toBe('draining')
    expect(replica.sse.count()).toBe(0)
  })

  test('a client that does not read its last words does not hold the connection for ever', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replica = await streams.startReplica({ stalledMs: 300 })
    for (let i = 0; i < 20; i++) await streams.publish(key, [['output', { content: 'x'.repeat(1_000_000) }]])
    const client = await connectSse(replica.url(key), { stalled: true })
    const socket = replica.sockets[0]!.deref()!
    await vi.waitFor(() => expect(socket.writableNeedDrain).toBe(true), PATIENT)
    await replica.sse.stop()
    expect(replica.sse.count()).toBe(0)
    await vi.waitFor(() => expect(socket.destroyed).toBe(true), PATIENT)
    client.cut()
  })
})

async function connectMany(
  replica: StreamReplica,
  streams: StreamWorld,
  { keys, count }: { keys: Awaited<ReturnType<StreamWorld['conversation']>>[]; count: number },
): Promise<SseClient[]> {
  const clients = await Promise.all(Array.from({ length: count }, (_, i) => join(replica.url(keys[i % keys.length]!))))
  await vi.waitFor(async () => expect(await rowsOf(streams, replica)).toBe(count), PATIENT)
  return clients
}

/** Comes back, as clients do, when a database that is asked by hundreds at once was too busy for this one. */
async function join(url: string): Promise<SseClient> {
  const client = await connectSse(url)
  const isIn = await client.waitFor(isConnected).then(
    () => true,
    () => false,
  )
  return isIn ? client : join(url)
}

async function rowsOf({ sql }: StreamWorld, { id }: StreamReplica): Promise<number> {
  const [row] = await sql<
    { rows: number }[]
  >`select count(*)::int as rows from stream_presence where replica_id = ${id}`
  return row!.rows
}

function exposeGc(): () => void {
  setFlagsFromString('--expose-gc')
  return runInNewContext('gc') as () => void
}
