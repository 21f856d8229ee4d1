import { expect } from 'vitest'
import { inTransaction } from '../../src/db/transaction.ts'
import { appendEvents, NO_REPLIES, numberEvents } from '../../src/queue/thread-response.ts'
import { encodeEventLine } from '../../src/sse/frames.ts'
import { encodeHints } from '../../src/sse/hints.ts'
import { findFaults } from '../support/checker.ts'
import { type Cluster, type Conversation, test } from '../support/cluster.ts'
import { effort } from '../support/effort.ts'
import { type Gateway, requireProc, until } from '../support/gateway.ts'
import { heapAndBuffersMib, heapMib } from '../support/heap.ts'
import { INSPECTED } from '../support/inspector.ts'
import { endListeners } from '../support/listeners.ts'
import { isPooled } from '../support/pgbouncer.ts'
import { connectSse, type SseClient } from '../support/sse-client.ts'
import { talk, untilAccepted } from '../support/talk.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('three replicas share it')
requireProc()

const MIB = 1_048_576

test.override('clusterOptions', {
  replicas: 3,
  env: { STREAMS_PER_CONVERSATION_MAX: '10000' },
})

const isEnd = ({ name }: { name: string }) => name === 'complete'

const streamOf = (
  { token, eventsUrl }: Conversation,
  gateway: Gateway,
  options: Parameters<typeof connectSse>[1] = {},
) => connectSse(eventsUrl(gateway.url), { ...options, headers: { authorization: `Bearer ${token}` } })

async function openedStream(conversation: Conversation, gateway: Gateway): Promise<SseClient> {
  const client = await streamOf(conversation, gateway)
  if (client.status === 200) return client
  client.cut()
  throw new Error(`the stream was answered with ${client.status}`)
}

/** Open streams of a replica, as it says itself. */
async function gauge({ call }: Cluster, { url: at }: Gateway): Promise<number> {
  const { body } = await call('GET', '/health/ready', { at })
  return Number.parseInt((body.subsystems as { streams: { detail: string } }).streams.detail, 10)
}

// 1, 3
test('a connection that is dropped after every single byte of an answer is resumed on another replica without a seam', async ({
  cluster,
}) => {
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const sent = await conversation.send(`/echo 🍋 naïve “漢字” \\n /words ${effort(4, 40)} /delay 40`)
  await follower.completed(sent.messageId)
  await follower.stop()
  const recorded = await streamOf(conversation, cluster.replicas[0]!, { lastEventId: 0 })
  await recorded.waitFor(isEnd)
  const { bytes, events } = recorded
  recorded.cut()
  let next = 1
  await Promise.all(
    Array.from({ length: 16 }, async () => {
      while (next <= bytes) {
        const cutAfterBytes = next++
        const [here, there] = cluster.random.shuffle(cluster.replicas)
        const first = await streamOf(conversation, here!, { lastEventId: 0, cutAfterBytes })
        await first.closed
        const second = await streamOf(conversation, there!, { lastEventId: first.lastEventId ?? 0 })
        if (!first.events.some(isEnd)) await second.waitFor(isEnd)
        second.cut()
        expect([...first.events, ...second.events], `dropped after ${cutAfterBytes} bytes`).toEqual(events)
      }
    }),
  )
  expect(next).toBeGreaterThan(bytes)
})

// 9
test('two thousand streams that are reset leave nothing behind, not in memory either, and the next ones are served', async ({
  cluster,
}) => {
  const gateway = await cluster.add(INSPECTED)
  const conversations = await Promise.all(Array.from({ length: 40 }, () => cluster.open()))
  const before = await gauge(cluster, gateway)
  const heaps: number[] = []
  for (let round = 0; round < effort(2, 10); round++) {
    const clients: SseClient[] = []
    await Promise.all(
      conversations.map(async (conversation) => {
        for (let at = 0; at < 50; at++) clients.push(await untilAccepted(() => openedStream(conversation, gateway)))
      }),
    )
    await until(async () => (await gauge(cluster, gateway)) >= 2000, 'all streams are counted')
    for (const client of clients) client.cut()
    await until(async () => (await gauge(cluster, gateway)) === before, 'none is counted')
    await until(async () => (await cluster.database.sql`select 1 from stream_presence`).length === 0, 'no row is left')
    heaps.push(await heapMib(gateway))
  }
  // The first round fills caches. A stream that stays has some 10 KiB, and these were thousands.
  expect(Math.max(...heaps) - heaps[0]!, `${heaps.map(Math.round)} MiB`).toBeLessThan(8)
  expect(findFaults([await talk(cluster, { name: 'after', goOn: () => false })])).toEqual([])
})

// 10
test('readers that never read cost bounded memory while 200 MB are broadcast, and hold up nobody', async ({
  cluster,
}) => {
  const gateway = await cluster.add(INSPECTED)
  const conversation = await cluster.open()
  const stalled = await Promise.all(
    Array.from({ length: 5 }, () => streamOf(conversation, gateway, { stalled: true, lastEventId: 0 })),
  )
  const good = await streamOf(conversation, gateway, { lastEventId: 0 })
  let isOver = false
  const neighbours = Promise.all(
    Array.from({ length: 4 }, (_, at) => talk(cluster, { name: `near-${at}`, goOn: () => !isOver })),
  )
  const before = await heapAndBuffersMib(gateway)
  let most = 0
  const rows = 400
  for (let row = 0; row < rows; row++) {
    await broadcast(cluster, conversation, 'x'.repeat(MIB / 2))
    // As fast as the one who reads can take it: what waits for him would be nobody's fault.
    await until(() => good.events.length >= row - 8, `the reader is at ${row - 8}`)
    if (row % 50 === 49) most = Math.max(most, await heapAndBuffersMib(gateway))
  }
  await good.waitForId(rows)
  isOver = true
  expect(findFaults(await neighbours)).toEqual([])
  expect(good.events.map(({ id }) => id)).toEqual(Array.from({ length: rows }, (_, at) => at + 1))
  expect(good.bytes).toBeGreaterThan(200 * MIB)
  good.cut()
  // For each of them a megabyte may wait, and for the one who reads what is on its way.
  expect(most - before).toBeLessThan(50)
  // Whatever waited for them is theirs when they read at last, and then they come back for the rest.
  const late = stalled[0]!
  late.resume()
  await until(() => late.events.length > 0, 'it reads')
  late.cut()
  expect(late.events.map(({ id }) => id)).toEqual(late.events.map((_, at) => at + 1))
  for (const client of stalled) client.cut()
  await until(async () => (await gauge(cluster, gateway)) === 0, 'no stream is left')
})

// 27
test('LISTEN connections that are killed every two seconds, through turn after turn, lose nothing', async ({
  cluster,
  skip,
}) => {
  skip(isPooled(), 'nobody listens through a transaction pooler')
  let turns = 0
  let isOver = false
  const goOn = () => {
    turns++
    return !isOver
  }
  const clients = Promise.all(Array.from({ length: 8 }, (_, at) => talk(cluster, { name: `ear-${at}`, goOn })))
  let killed = 0
  for (let blow = 0; blow < 3 || turns < effort(60, 1000); blow++) {
    killed += await endListeners(cluster)
    await new Promise((resolve) => setTimeout(resolve, 2_000))
  }
  isOver = true
  expect(findFaults(await clients)).toEqual([])
  // The first blow meets every replica, the later ones those that have come back.
  expect(killed).toBeGreaterThan(cluster.replicas.length)
})

/** Appends one event to the log of a conversation and tells the replicas, as a publisher does. */
async function broadcast({ database }: Cluster, { id: conversationId }: Conversation, content: string) {
  const row = await inTransaction(database.sql, async (tx) => {
    const [conversation] = await tx<{ organizationId: string; lastSeq: number }[]>`
      select organization_id as "organizationId", last_seq as "lastSeq" from conversations
      where id = ${conversationId} for no key update`
    const extra = [encodeEventLine('output', { type: 'delta', content, timestamp: Date.now(), messageId: 'none' })]
    const published = numberEvents(NO_REPLIES, { ...conversation!, conversationId, extra })!
    await appendEvents(tx, published)
    await tx`update conversations set last_seq = ${published.lastSeq} where id = ${conversationId}`
    return published
  })
  for (const payload of encodeHints([row])) await database.sql`select pg_notify('lobu_events', ${payload})`
}
