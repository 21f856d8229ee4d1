import { describe, expect, vi } from 'vitest'
import { PATIENT } from '../tests/support/http.ts'
import { connectSse } from '../tests/support/sse-client.ts'
import { createStreamWorld } from '../tests/support/streams.ts'
import { requirePostgres, test, type World } from '../tests/support/world.ts'
import type { Sql } from './db/client.ts'
import { createNotifier } from './db/notify.ts'
import { createSignals, hearSignals, type LocalParts } from './doorbells.ts'
import { createTail } from './sse/tail.ts'

const text = (content: string): [string, Record<string, unknown>][] => [['output', { type: 'delta', content }]]

describe('streams', () => {
  test('what one replica publishes reaches a stream of another, once, whatever its size', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const [a, b] = [await streams.startReplica(), await streams.startReplica()]
    const clients = [await connectSse(a.url(key)), await connectSse(b.url(key))]
    for (const [i, content] of ['small', 'é'.repeat(50_000), 'x'.repeat(7_700), '', 'last'].entries()) {
      a.signals.published([await streams.publish(key, text(content))])
      for (const client of clients) expect((await client.waitForId(i + 1)).data.content).toBe(content)
    }
    for (const client of clients) expect(client.events.map((event) => event.id)).toEqual([1, 2, 3, 4, 5])
  })

  test('a storm of publishing is heard whole and in order', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const [a, b] = [await streams.startReplica(), await streams.startReplica()]
    const client = await connectSse(b.url(key))
    for (let i = 1; i <= 200; i++) a.signals.published([await streams.publish(key, text(String(i)))])
    await client.waitForId(200)
    expect(client.events.map((event) => Number(event.data.content))).toEqual(client.events.map((event) => event.id))
  })

  test('without LISTEN and NOTIFY everything arrives by polling', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const replica = await streams.startReplica({ deaf: true, pollMs: 30 })
    const client = await connectSse(replica.url(key))
    for (let i = 1; i <= 3; i++) {
      await streams.publish(key, text(String(i)))
      await client.waitForId(i)
    }
    await streams.sql`update conversations set status = 'ended' where id = ${key.conversationId}`
    expect(await client.closed).toBe(true)
    expect(client.all.map((event) => event.name)).toEqual(['connected', 'output', 'output', 'output', 'closed'])
  })

  test('payloads that are not ours do no harm', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const [a, b] = [await streams.startReplica(), await streams.startReplica()]
    const client = await connectSse(b.url(key))
    for (const payload of [
      '',
      'x',
      '{}',
      '[[]]',
      '[["a","b",1,2,"x"]]',
      'conversation',
      'run',
      ' ',
      'v2 something new',
    ]) {
      for (const channel of ['lobu_events', 'lobu_runs', 'lobu_control']) {
        await streams.sql`select pg_notify(${channel}, ${payload})`
      }
    }
    a.signals.published([await streams.publish(key, text('still here'))])
    await client.waitForId(1)
    expect(client.all.map((event) => event.name)).toEqual(['connected', 'output'])
  })
})

describe('when LISTEN is lost', () => {
  requirePostgres('it ends connections')

  test('what was published meanwhile is delivered as soon as it is back', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const keys = [await streams.conversation(), await streams.conversation()]
    const [a, b] = [await streams.startReplica(), await streams.startReplica()]
    const clients = await Promise.all(keys.map((key) => connectSse(b.url(key))))
    await Promise.all(clients.map((client) => client.waitFor(({ name }) => name === 'connected')))
    for (let round = 1; round <= 3; round++) {
      // Nobody is told of these; polls are an hour apart. Only the new LISTEN can be the reason to look.
      for (const key of keys) await streams.publish(key, text(String(round)))
      await endListeners(streams.sql)
      await Promise.all(clients.map((client) => client.waitForId(round)))
    }
    await vi.waitFor(() => expect([a.db.listening(), b.db.listening()]).toEqual([true, true]), PATIENT)
    a.signals.published([await streams.publish(keys[0]!, text('as ever'))])
    await clients[0]!.waitForId(4)
  })

  test('nothing is lost though it is lost again and again while a reply is streamed', async ({ world }) => {
    const EVENTS = 400
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    const [a, b] = [await streams.startReplica(), await streams.startReplica()]
    const client = await connectSse(b.url(key))
    for (let i = 1; i <= EVENTS; i++) {
      a.signals.published([await streams.publish(key, text(String(i)))])
      if (i % 40 === 0) await endListeners(streams.sql)
    }
    await client.waitForId(EVENTS)
    expect(client.events.map((event) => event.id)).toEqual(Array.from({ length: EVENTS }, (_, i) => i + 1))
  })

  test('runs are looked for again as well', async ({ world }) => {
    const { b, sql } = await createPair(world)
    const before = b.rings()
    await endListeners(sql)
    await vi.waitFor(() => expect(b.rings()).toBeGreaterThan(before), PATIENT)
  })
})

describe('runs and conversations', () => {
  test('a run that anybody may claim rings here and everywhere', async ({ world }) => {
    const { a, b } = await createPair(world)
    const before = [a.rings(), b.rings()]
    a.signals.runReady()
    expect(a.rings()).toBe(before[0]! + 1)
    await vi.waitFor(() => expect(b.rings()).toBe(before[1]! + 1), PATIENT)
  })

  test('a run that is kept for one replica rings there alone', async ({ world }) => {
    const { a, b } = await createPair(world)
    const before = [a.rings(), b.rings()]
    a.signals.runReady('a')
    expect(a.rings()).toBe(before[0]! + 1)
    a.signals.runReady('b')
    await vi.waitFor(() => expect(b.rings()).toBe(before[1]! + 1), PATIENT)
    expect(a.rings()).toBe(before[0]! + 1)
  })

  test('a run that was ended is stopped wherever it is, a conversation forgotten', async ({ world }) => {
    const { a, b } = await createPair(world)
    a.signals.runEnded('0b9e2c1a-run')
    a.signals.conversationEnded({ organizationId: 'org_1', conversationId: 'conv_1' })
    expect(a.calls).toEqual(['stop 0b9e2c1a-run', 'forget org_1/conv_1'])
    await vi.waitFor(() => expect(new Set(b.calls)).toEqual(new Set(a.calls)), PATIENT)
  })

  test('who may do what is asked anew by every replica when it has changed', async ({ world }) => {
    const { a, b } = await createPair(world)
    a.signals.accessChanged()
    expect(a.calls).toEqual(['access'])
    await vi.waitFor(() => expect(b.calls).toEqual(['access']), PATIENT)
  })

  test('who stopped hearing hears nothing', async ({ world }) => {
    const { a, b } = await createPair(world)
    await b.stop()
    a.signals.runEnded('gone')
    await vi.waitFor(() => expect(a.heard()).toContain('stop gone'), PATIENT)
    expect(b.calls).toEqual([])
  })
})

/** Two replicas named a and b, of which only the doorbells work; their runners write down what they are told. */
async function createPair(world: World) {
  const create = async (replica: string) => {
    const db = await world.replica()
    const { sql } = db
    const calls: string[] = []
    let rings = 0
    const runner: LocalParts['runner'] = {
      ring: () => void rings++,
      stopRun: (id) => void calls.push(`stop ${id}`),
      forget: (key) => void calls.push(`forget ${key}`),
    }
    let heard = false
    const authenticator = { forget: () => void (heard && calls.push('access')) }
    const tail = await world.run(createTail({ sql, log: world.log }, { pollMs: () => 3_600_000 }))
    const parts = { tail, runner, authenticator }
    const notifier = await world.run(createNotifier({ sql, log: world.log }))
    const stop = await hearSignals(db, parts, { replica })
    heard = true
    const signals = createSignals({ notifier, parts: () => parts }, { replica })
    return { sql, calls, rings: () => rings, signals, stop }
  }
  const [a, b] = [await create('a'), await create('b')]
  return { a: { ...a, heard: () => a.calls.slice(1) }, b, sql: a.sql }
}

/** Ends every connection of this file's database that listens. */
async function endListeners(sql: Sql) {
  await sql`
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and (query ilike 'listen %' or query ilike 'select pg_notify(''lobu_ping%')`
}
