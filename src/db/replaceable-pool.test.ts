import { setImmediate } from 'node:timers/promises'
import { describe, expect } from 'vitest'
import { until } from '../../tests/support/gateway.ts'
import { startTcpProxy, type TcpProxy } from '../../tests/support/tcp-proxy.ts'
import { requirePostgres, test, type World } from '../../tests/support/world.ts'
import { type Database, openDatabase } from './client.ts'

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

/** Transactions on so many connections of the pool, until they are released. */
async function occupy({ sql }: Database, connections = POOL_MAX) {
  const goOn = Promise.withResolvers<void>()
  const begun = Array.from({ length: connections }, () => Promise.withResolvers<void>())
  const over = Promise.all(
    begun.map(({ resolve }) =>
      sql.begin(async (tx) => {
        await tx`select 1`
        resolve()
        await goOn.promise
      }),
    ),
  )
  // Whoever releases them is told.
  over.catch(() => {})
  await Promise.all(begun.map(({ promise }) => promise))
  return {
    async release() {
      goOn.resolve()
      await over
    },
  }
}

/** Listens, and resolves when it does. */
async function listenOn(database: Database) {
  let heard = 0
  await database.listen(
    'closing',
    () => heard++,
    () => {},
  )
  expect(database.listening()).toBe(true)
  return {
    async expectHears() {
      await database.sql`select pg_notify('closing', '')`
      await until(() => heard > 0, 'it hears')
    },
  }
}

/** Statements, one after the other, are refused, and for most of them nobody knocks. */
async function expectLeftAlone(database: Database, proxy: TcpProxy, statements: number) {
  const before = proxy.made()
  for (let asked = 0; asked < statements; asked++) {
    await expect(database.sql`select 1 as n`).rejects.toMatchObject(UNAVAILABLE.reason)
    await setImmediate()
  }
  expect(proxy.made() - before).toBeLessThan(50)
}

function isReached(database: Database): Promise<boolean> {
  return database.ping(1_000).then(
    () => true,
    () => false,
  )
}

// 35
describe('a pool that is replaced', () => {
  test('answers what waits in it for a connection, and connects for it no more', async ({
    world,
    database: { url },
  }) => {
    const { proxy, database } = await openBehindProxy(world, url!)
    const busy = await occupy(database, 1)
    proxy.freeze()
    // A question that passes the gate by, so that the driver has no place left.
    const ping = Promise.allSettled([database.ping(30_000)])
    await until(() => proxy.count() === POOL_MAX, 'every place of the driver is taken')
    const outcomes = Promise.allSettled([database.sql.begin((tx) => tx`select 1 as n`), database.sql`select 1 as n`])
    proxy.thaw()
    proxy.hangUp()
    expect(await outcomes).toMatchObject([UNAVAILABLE, UNAVAILABLE])
    await expect(busy.release()).rejects.toMatchObject(UNAVAILABLE.reason)
    await ping
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

// 35: it is asked for past the gate, and so waits in the driver's own queue
test('what waits in the driver when the pool ends is told so', async ({ world, database: { url } }) => {
  const { database } = await openBehindProxy(world, url!)
  const busy = await occupy(database)
  // By its own time it would end without any code.
  const told = expect(database.ping(30_000)).rejects.toMatchObject({ code: expect.stringMatching(/^(CONNECTION_|E)/) })
  const closed = database.close()
  await Promise.all([busy.release(), closed, told])
})

// 35: a balancer that has no server, where a connection is made and closed before a word was said
describe('an address that closes each connection at once', () => {
  test('is left alone, and asked again until the server is back', async ({ world, database: { url } }) => {
    const { proxy, database } = await openBehindProxy(world, url!)
    expect(await database.sql`select 1 as n`).toEqual([{ n: 1 }])
    proxy.turnAway()
    proxy.reset()
    await expectLeftAlone(database, proxy, 500)
    proxy.thaw()
    await until(() => isReached(database), 'it is reached again')
    expect(await database.sql`select 1 as n`).toEqual([{ n: 1 }])
  })

  test('is named when the database is opened', async ({ world, database: { url } }) => {
    const proxy = await startTcpProxy(url!)
    world.defer(proxy.close)
    proxy.turnAway()
    const opened = openDatabase({ url: proxy.url, poolMax: POOL_MAX, dataDir: null, log: world.log })
    await expect(opened).rejects.toThrow(/closes each connection at once: check that it is Postgres/)
    expect(proxy.made()).toBeLessThan(10)
  })

  test('is not asked for notifications again and again', async ({ world, database: { url } }) => {
    const { proxy, database } = await openBehindProxy(world, url!)
    const { expectHears } = await listenOn(database)
    proxy.turnAway()
    proxy.reset()
    const before = proxy.made()
    await until(() => proxy.made() - before >= 5, 'it has knocked five times')
    proxy.thaw()
    await until(() => database.listening(), 'it listens again')
    expect(proxy.made() - before).toBeLessThan(30)
    await expectHears()
  })

  test('is passed over for the next host, by the start, the pool and LISTEN', async ({ world, database: { url } }) => {
    const [bad, good] = [await startTcpProxy(url!), await startTcpProxy(url!)]
    world.defer(bad.close)
    bad.turnAway()
    const both = new URL(good.url)
    const hosts = `${new URL(bad.url).host},${both.host}`
    const database = await openDatabase({
      ...{ url: good.url.replace(both.host, hosts), poolMax: POOL_MAX, dataDir: null, log: world.log },
    })
    world.defer(database.close)
    const { expectHears } = await listenOn(database)
    await (await occupy(database)).release()
    await expectHears()
    const { sql, end } = await database.dedicated()
    expect(await sql`select 1 as n`).toEqual([{ n: 1 }])
    await end()
    expect(bad.made()).toBeGreaterThan(2)
    // Then there is none.
    await good.close()
    await expect(database.sql`select 1 as n`).rejects.toMatchObject(UNAVAILABLE.reason)
    await expectLeftAlone(database, bad, 100)
    bad.thaw()
    await until(() => isReached(database), 'the other is reached')
  })
})
