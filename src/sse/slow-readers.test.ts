import { expect, vi } from 'vitest'
import { PATIENT } from '../../tests/support/http.ts'
import { connectSse, followSse } from '../../tests/support/sse-client.ts'
import { type ConversationKey, createStreamWorld, type StreamWorld } from '../../tests/support/streams.ts'
import { test } from '../../tests/support/world.ts'
import { pruneLog } from './event-log.ts'

const MIB = 1_048_576
const BUFFER_BYTES_MAX = MIB

test('a reader that never reads costs a bounded buffer, holds up nobody, and is dropped', async ({ world }) => {
  const ROWS = 60
  const streams = await createStreamWorld(world)
  const key = await streams.conversation()
  const replica = await streams.startReplica({ bufferBytesMax: BUFFER_BYTES_MAX, stalledMs: 1_000, pingMs: 160 })
  const stalled = await connectSse(replica.url(key), { stalled: true })
  const good = [await connectSse(replica.url(key)), await connectSse(replica.url(key))]
  await Promise.all(good.map((client) => client.waitFor((event) => event.name === 'connected')))

  let waitingMax = 0
  for (let i = 0; i < ROWS; i++) {
    const row = await streams.publish(key, Array(5).fill(['output', { content: 'x'.repeat(MIB / 20) }]))
    replica.signals.published([row])
    waitingMax = Math.max(waitingMax, replica.sockets[0]!.deref()?.writableLength ?? 0)
  }
  await Promise.all(good.map((client) => client.waitForId(ROWS * 5)))
  expect(waitingMax).toBeGreaterThan(0)
  expect(waitingMax).toBeLessThanOrEqual(BUFFER_BYTES_MAX)
  for (const client of good) expect(client.events.map((event) => event.id)).toEqual(numbers(ROWS * 5))

  await vi.waitFor(() => expect(replica.sse.count()).toBe(2), PATIENT)
  stalled.resume()
  expect(await stalled.closed).toBe(false)
  // What it had before it was dropped is the beginning of the whole, and it comes back for the rest.
  expect(stalled.events.map((event) => event.id)).toEqual(numbers(stalled.events.length))
  const back = await connectSse(replica.url(key), { lastEventId: stalled.lastEventId ?? 0 })
  await back.waitForId(ROWS * 5)
  expect([...stalled.events, ...back.events].map((event) => event.id)).toEqual(numbers(ROWS * 5))

  for (const client of [...good, back]) client.cut()
  await vi.waitFor(() => expect(replica.sse.count()).toBe(0), PATIENT)
})

test('a reader that stalls while it catches up is dropped as well', async ({ world }) => {
  const streams = await createStreamWorld(world)
  const key = await streams.conversation()
  const replica = await streams.startReplica({ bufferBytesMax: BUFFER_BYTES_MAX, stalledMs: 300, pingMs: 160 })
  await fill(streams, key, 20)
  const client = await connectSse(replica.url(key), { stalled: true })
  expect(replica.sse.count()).toBe(1)
  await vi.waitFor(() => expect(replica.sse.count()).toBe(0), PATIENT)
  client.resume()
  expect(await client.closed).toBe(false)
})

test('a reader that is slow but reads is not dropped', async ({ world }) => {
  const streams = await createStreamWorld(world)
  const key = await streams.conversation()
  const replica = await streams.startReplica({ bufferBytesMax: BUFFER_BYTES_MAX, stalledMs: 400, pingMs: 160 })
  const last = await fill(streams, key, 24)
  const client = await connectSse(replica.url(key), { stalled: true })
  const read = setInterval(() => {
    client.resume()
    setImmediate(() => client.stall())
  }, 20)
  world.defer(async () => clearInterval(read))
  await client.waitForId(last)
  clearInterval(read)
  client.resume()
  expect(client.events.map((event) => event.id)).toEqual(numbers(last))
  expect(replica.sse.count()).toBe(1)
  client.cut()
})

test('an event that is larger than the buffer reaches whoever reads, live and on resume', async ({ world }) => {
  const streams = await createStreamWorld(world)
  const key = await streams.conversation()
  const replica = await streams.startReplica({ bufferBytesMax: BUFFER_BYTES_MAX })
  const live = await connectSse(replica.url(key))
  await live.waitFor((event) => event.name === 'connected')
  replica.signals.published([await streams.publish(key, [['complete', { finalText: 'é'.repeat(6 * MIB) }]])])
  replica.signals.published([await streams.publish(key, [['output', { content: 'next' }]])])
  await live.waitForId(2)
  expect(live.events[0]!.data.finalText).toHaveLength(6 * MIB)

  const { events, connections } = await followSse(replica.url(key), { until: (event) => event.id === 2 })
  expect(connections).toHaveLength(1)
  expect(events).toEqual(live.events)
  live.cut()
})

test('a row of the log that is larger than the buffer is read in one go by whoever reads', async ({ world }) => {
  const COUNT = 40_000
  const streams = await createStreamWorld(world)
  const key = await streams.conversation()
  const replica = await streams.startReplica({ bufferBytesMax: BUFFER_BYTES_MAX })
  await streams.publish(key, Array(COUNT).fill(['output', { content: 'x'.repeat(200) }]))
  const { events, connections } = await followSse(replica.url(key), { until: (event) => event.id === COUNT })
  expect(connections).toHaveLength(1)
  expect(events.map((event) => event.id)).toEqual(numbers(COUNT))
})

test('events that are removed under a reader that catches up send it back, and then it is told by reset', async ({
  world,
}) => {
  const streams = await createStreamWorld(world)
  const key = await streams.conversation()
  const replica = await streams.startReplica({ bufferBytesMax: BUFFER_BYTES_MAX })
  const last = await fill(streams, key, 48)
  const slow = await connectSse(replica.url(key), { stalled: true })
  await vi.waitFor(() => expect(replica.sockets[0]!.deref()!.writableNeedDrain).toBe(true), PATIENT)
  await streams.endTurn(key)
  expect(await pruneLog(streams.sql, { keepMs: 1, turnsMax: 10 })).toBe(1)

  slow.resume()
  expect(await slow.closed).toBe(true)
  expect(slow.retryMs).toBeGreaterThanOrEqual(500)
  expect(slow.lastEventId).toBeLessThan(last)
  expect(slow.events.map((event) => event.id)).toEqual(numbers(slow.events.length))

  const back = await connectSse(replica.url(key), { lastEventId: slow.lastEventId! })
  const reset = await back.waitFor((event) => event.name === 'reset')
  expect(reset.data).toMatchObject({ oldest: last + 1, snapshot: { messages: [], runs: [] } })
  replica.signals.published([await streams.publish(key, [['output', { content: 'on it goes' }]])])
  await back.waitForId(last + 1)
  expect(back.all.map((event) => event.name)).toEqual(['connected', 'reset', 'output'])
  back.cut()
})

test('events that were removed while a replica slept send its streams back, never leave them in silence', async ({
  world,
}) => {
  const streams = await createStreamWorld(world)
  const key = await streams.conversation()
  const replica = await streams.startReplica({ asleep: true })
  const client = await connectSse(replica.url(key))
  await client.waitFor((event) => event.name === 'connected')
  await streams.publish(key, [['output', { content: 'missed' }]])
  await streams.endTurn(key)
  await pruneLog(streams.sql, { keepMs: 1, turnsMax: 10 })

  await world.run(replica.tail)
  expect(await client.closed).toBe(true)
  expect(client.retryMs).toBeGreaterThanOrEqual(500)
  const back = await connectSse(replica.url(key), { lastEventId: 0 })
  expect(await back.waitFor((event) => event.name === 'reset')).toMatchObject({ data: { oldest: 2 } })
  back.cut()
})

/** Publishes so many MiB that no buffer of the kernel holds them; returns the last number. */
async function fill(streams: StreamWorld, key: ConversationKey, mebibytes: number): Promise<number> {
  let last = 0
  for (let i = 0; i < mebibytes; i++) {
    last = (await streams.publish(key, Array(10).fill(['output', { content: 'x'.repeat(MIB / 10) }]))).lastSeq
  }
  return last
}

function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i + 1)
}
