import { describe, expect, vi } from 'vitest'
import { startTcpProxy } from '../../tests/support/tcp-proxy.ts'
import { requirePostgres, test } from '../../tests/support/world.ts'
import { openDatabase } from './client.ts'
import { createPostgresEndpoint, PLAIN_SETTINGS } from './driver.ts'
import { createListener } from './listen.ts'
import { parseDatabaseUrl } from './url.ts'

describe('LISTEN', () => {
  test('hears what another replica says, on its channels only', async ({ world }) => {
    const a = await world.replica()
    const b = await world.replica()
    const [mine, other] = [world.unique('channel'), world.unique('channel')]
    const heard = vi.fn()
    await a.listen(mine, heard, () => {})
    expect(a.listening()).toBe(true)

    await b.sql`select pg_notify(${other}, 'not for us'), pg_notify(${mine}, 'hello "you"')`
    await vi.waitUntil(() => heard.mock.calls.length > 0)
    expect(heard.mock.calls).toEqual([['hello "you"']])
  })

  test('subscribers that come at the same time, before there is a connection, are all heard', async ({ world }) => {
    const db = await world.replica()
    const channels = Array.from({ length: 5 }, () => world.unique('channel'))
    const heard = vi.fn()
    await Promise.all(channels.map((channel) => db.listen(channel, heard, () => {})))
    for (const channel of channels) await db.sql`select pg_notify(${channel}, ${channel})`
    await vi.waitUntil(() => heard.mock.calls.length === channels.length)
    expect(heard.mock.calls.flat()).toEqual(channels)
  })

  test('several listeners of one channel are all told, until each has left', async ({ world }) => {
    const db = await world.replica()
    const channel = world.unique('channel')
    const [one, two, ready] = [vi.fn(), vi.fn(), vi.fn()]
    const leave = await db.listen(channel, one, ready)
    await db.listen(channel, two, ready)
    expect(ready).toHaveBeenCalledTimes(2)
    await leave()
    await db.sql`select pg_notify(${channel}, 'x')`
    await vi.waitUntil(() => two.mock.calls.length === 1)
    expect(one).not.toHaveBeenCalled()
  })

  test('a listener that throws does not keep others from hearing', async ({ world }) => {
    const db = await world.replica()
    const channel = world.unique('channel')
    const heard = vi.fn()
    await db.listen(
      channel,
      () => {
        throw new Error('mine')
      },
      () => {},
    )
    await db.listen(channel, heard, () => {})
    await db.sql`select pg_notify(${channel}, 'x')`
    await vi.waitUntil(() => heard.mock.calls.length === 1)
  })

  test('a channel that Postgres would cut short is refused', async ({ world }) => {
    const db = await world.replica()
    await expect(db.listen('c'.repeat(64), vi.fn(), vi.fn())).rejects.toThrow('63 bytes')
    await expect(db.listen('c'.repeat(63), vi.fn(), vi.fn())).resolves.toBeTypeOf('function')
  })
})

describe('a LISTEN connection that is lost', () => {
  requirePostgres('it ends connections')

  test('is made again; the caller is told to read again and hears what is said from then on', async ({ world }) => {
    const db = await world.replica()
    const admin = await world.replica()
    const channel = world.unique('channel')
    const [heard, ready] = [vi.fn(), vi.fn()]
    await db.listen(channel, heard, ready)
    expect(ready).toHaveBeenCalledTimes(1)

    for (let round = 2; round <= 4; round++) {
      await admin.sql`
        select pg_terminate_backend(pid, 5000) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid() and query ~* '^(listen|select pg_notify)'`
      await vi.waitUntil(() => ready.mock.calls.length === round, { timeout: 10_000 })
      expect(db.listening()).toBe(true)
      await admin.sql`select pg_notify(${channel}, ${String(round)})`
      await vi.waitUntil(() => heard.mock.calls.length === round - 1)
    }
    expect(heard.mock.calls.flat()).toEqual(['2', '3', '4'])
  })

  test('whose peer is gone without a word is noticed by its own ping', async ({ world, database }) => {
    const proxy = await startTcpProxy(database.url!)
    world.defer(proxy.close)
    const endpoint = await createPostgresEndpoint(parseDatabaseUrl(proxy.url))
    const listener = createListener(
      { log: world.log },
      {
        connect: (hooks) => endpoint.connect({ max: 1, settings: PLAIN_SETTINGS, prepare: false, ...hooks }),
        pingMs: 50,
        // Far longer than a live connection takes on a busy machine: one that is given up in vain misses what is told.
        pingAnswerMs: 1_000,
      },
    )
    world.defer(listener.close)
    const channel = world.unique('channel')
    const [heard, ready] = [vi.fn(), vi.fn()]
    await listener.listen(channel, heard, ready)

    proxy.freeze()
    await vi.waitUntil(() => !listener.listening(), { timeout: 5_000 })
    proxy.thaw()
    await vi.waitUntil(() => ready.mock.calls.length === 2, { timeout: 15_000 })
    const admin = await world.replica()
    await admin.sql`select pg_notify(${channel}, 'again')`
    await vi.waitUntil(() => heard.mock.calls.length === 1, { timeout: 15_000 })
  })

  test('a listener that starts while the server is away is told as soon as it is there', async ({
    world,
    database,
  }) => {
    const proxy = await startTcpProxy(database.url!)
    const db = await openDatabase({ url: proxy.url, poolMax: 1, dataDir: null, log: world.log })
    world.defer(db.close)
    await proxy.close()
    const ready = vi.fn()
    await db.listen(world.unique('channel'), vi.fn(), ready)
    expect(ready).not.toHaveBeenCalled()

    const back = await startTcpProxy(database.url!, { port: Number(new URL(proxy.url).port) })
    world.defer(back.close)
    await vi.waitUntil(() => ready.mock.calls.length === 1, { timeout: 10_000 })
  })
})
