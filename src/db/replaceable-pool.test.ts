import { describe, expect } from 'vitest'
import { until } from '../../tests/support/gateway.ts'
import { startTcpProxy } from '../../tests/support/tcp-proxy.ts'
import { requirePostgres, test, type World } from '../../tests/support/world.ts'
import { openDatabase } from './client.ts'

requirePostgres('its connections are ended')

const POOL_MAX = 2
const UNAVAILABLE = { status: 'rejected', reason: { code: 'database_unavailable' } }

async function openBehindProxy(world: World, url: string) {
  const proxy = await startTcpProxy(url)
  world.defer(proxy.close)
  const database = await openDatabase({ url: proxy.url, poolMax: POOL_MAX, dataDir: null, log: world.log })
  world.defer(database.close)
  await until(() => proxy.count() === 0, 'the first look at the server is over')
  return { proxy, database }
}

// 35
describe('a pool that is replaced', () => {
  test('answers what waits in it for a connection, and connects for it no more', async ({
    world,
    database: { url },
  }) => {
    const { proxy, database } = await openBehindProxy(world, url!)
    proxy.freeze()
    // Of questions that pass the gate by, so that the driver has no place left.
    const pings = Promise.allSettled(Array.from({ length: POOL_MAX }, () => database.ping(30_000)))
    await until(() => proxy.count() === POOL_MAX, 'every place of the driver is taken')
    const outcomes = Promise.allSettled([database.sql.begin((tx) => tx`select 1 as n`), database.sql`select 1 as n`])
    proxy.thaw()
    proxy.hangUp()
    await pings
    expect(await outcomes).toMatchObject([UNAVAILABLE, UNAVAILABLE])
    for (let asked = 0; asked < 1_000; asked++) expect(await database.sql`select 1 as n`).toEqual([{ n: 1 }])
    expect(database.load()).toMatchObject({ busy: 0, waiting: 0 })
    // The first look, those that were lost, and what the new pool needs.
    expect(proxy.made()).toBeLessThan(10)
  })

  test('has no use for what a lost connection left behind', async ({ world, database: { url } }) => {
    const { proxy, database } = await openBehindProxy(world, url!)
    const { sql } = database
    const before = proxy.answered()
    const rows = sql.begin((tx) => tx`select repeat('x', 2000), pg_sleep(0.002) from generate_series(1, 5000)`)
    await until(() => proxy.answered() > before + 50_000, 'some of its rows have come')
    proxy.freeze()
    const connecting = sql`select 'connecting' as v`.then()
    await until(() => proxy.count() === POOL_MAX, 'a second connection is being made')
    const waiting = sql`select 'waiting' as v`.then()
    await until(() => database.load().waiting === 1, 'one waits for a place')
    const asked = Promise.allSettled([rows, connecting, waiting, sql.begin((tx) => tx`select 1 as n`)])
    proxy.thaw()
    proxy.hangUp()
    const [, , , begun] = await asked
    expect((await asked).slice(0, 3)).toMatchObject([UNAVAILABLE, UNAVAILABLE, UNAVAILABLE])
    // A transaction goes to the new pool.
    expect(begun).toMatchObject({ status: 'fulfilled', value: [{ n: 1 }] })
  })

  test('may finish what runs on it, before the database is closed', async ({ world, database: { url } }) => {
    const { database } = await openBehindProxy(world, url!)
    const { sql } = database
    let [isReplaced, isOver] = [false, false]
    const lost = Promise.withResolvers<number>()
    const kept = sql.begin(async (tx) => {
      await tx`select pg_terminate_backend(${await lost.promise})`
      await until(() => isReplaced, 'the other was lost')
      const rows = await tx`select 1 as n, pg_sleep(0.5)`
      isOver = true
      return rows
    })
    const other = sql.begin(async (tx) => {
      const [row] = await tx<{ pid: number }[]>`select pg_backend_pid() as pid`
      lost.resolve(row!.pid)
      await tx`select pg_sleep(60)`
    })
    await expect(other).rejects.toMatchObject(UNAVAILABLE.reason)
    const closed = database.close()
    isReplaced = true
    await closed
    expect(isOver).toBe(true)
    expect(await kept).toMatchObject([{ n: 1 }])
  })
})

test('a transaction that commits while the pool ends is told so', async ({ world, database: { url } }) => {
  const { database } = await openBehindProxy(world, url!)
  let closed: Promise<void> | undefined
  const value = await database.sql.begin(async (tx) => {
    await tx`select 1`
    closed = database.close()
    await tx`select 2`
    return 'committed'
  })
  expect(value).toBe('committed')
  await closed
})
