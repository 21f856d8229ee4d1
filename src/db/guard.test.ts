import { describe, expect, vi } from 'vitest'
import { startTcpProxy, type TcpProxy } from '../../tests/support/tcp-proxy.ts'
import { requirePostgres, test } from '../../tests/support/world.ts'
import { openDatabase, type Sql, type Tx } from './client.ts'
import { createPostgresEndpoint, PLAIN_SETTINGS } from './driver.ts'
import { createGate } from './gate.ts'
import { guardSql } from './guard.ts'
import { trackPool } from './replaceable-pool.ts'
import { parseDatabaseUrl } from './url.ts'

requirePostgres('it ends connections')

const unavailable = { code: 'database_unavailable', retryAfterSeconds: 1 }

async function pidOf(sql: Sql | Tx): Promise<number> {
  const [row] = await sql<{ pid: number }[]>`select pg_backend_pid() as pid`
  return row!.pid
}

/** Waits until the pool answers again. */
function isBack(sql: Sql): Promise<unknown> {
  const ask = () =>
    sql`select 1`.then(
      () => true,
      () => false,
    )
  return vi.waitUntil(ask, { interval: 5, timeout: 5_000 })
}

/** Ends a server process and waits until it is gone. */
async function killBackend(admin: Sql, pid: number) {
  await admin`select pg_terminate_backend(${pid}, 5000)`
}

describe('a connection that dies inside a transaction', () => {
  // Without the guard each of these ends the process by an uncaught TypeError, which vitest reports as a failed run.
  const moments: [string, (tx: Tx, kill: () => Promise<void>) => Promise<unknown>][] = [
    ['between two statements', async (tx, kill) => [await kill(), await tx`select 1`]],
    ['before the work returns', async (_tx, kill) => kill()],
    [
      'before the work throws',
      async (_tx, kill) => {
        await kill()
        throw new Error('mine')
      },
    ],
    ['while a statement runs', async (tx, kill) => Promise.all([tx`select pg_sleep(60)`, kill()])],
    [
      'and the work swallows it and goes on',
      async (tx, kill) => {
        await Promise.allSettled([tx`select pg_sleep(60)`, kill()])
        for (let n = 0; n < 3; n++) await tx`select ${n}::int`.catch(() => {})
        return 'done'
      },
    ],
    ['inside a savepoint', (tx, kill) => tx.savepoint(async (nested) => [await kill(), await nested`select 1`])],
    ['and the work never returns', async (_tx, kill) => [await kill(), await new Promise(() => {})]],
  ]

  test.for(moments)('%s: the transaction rejects and the pool goes on', async ([, work], { world }) => {
    const admin = await world.replica({ poolMax: 1 })
    const { sql } = await world.replica({ poolMax: 1 })
    const running = sql.begin(async (tx) => {
      const pid = await pidOf(tx)
      return work(tx, () => killBackend(admin.sql, pid))
    })

    await expect(running).rejects.toMatchObject(unavailable)
    await isBack(sql)
    // With one connection in the pool this would hang if the place had been lost.
    expect(await sql.begin((tx) => tx`select 1 as one`)).toEqual([{ one: 1 }])
  })

  test('its later statements are not run on the connection that takes the place', async ({ world }) => {
    const admin = await world.replica({ poolMax: 1 })
    const { sql } = await world.replica({ poolMax: 1 })
    const name = world.unique('stray')
    const late = Promise.withResolvers<string>()
    const running = sql.begin(async (tx) => {
      await killBackend(admin.sql, await pidOf(tx))
      await isBack(sql)
      await tx`insert into organizations (id, slug, name) values (${name}, ${name}, ${name})`.then(
        () => late.resolve('inserted'),
        (error: { code: string }) => late.resolve(error.code),
      )
    })

    await expect(running).rejects.toMatchObject(unavailable)
    expect(await late.promise).toBe('database_unavailable')
    expect(await sql`select 1 from organizations where id = ${name}`).toEqual([])
  })
})

describe('a connection whose peer is gone without a word', () => {
  const moments: [string, (proxy: TcpProxy, sql: Sql) => Promise<unknown>][] = [
    [
      'BEGIN',
      async (proxy, sql) => {
        proxy.freeze()
        return sql.begin((tx) => tx`select 1`)
      },
    ],
    ['COMMIT', (proxy, sql) => sql.begin(async (tx) => [await tx`select 1`, proxy.freeze()])],
    [
      'ROLLBACK',
      (proxy, sql) =>
        sql.begin(async (tx) => {
          await tx`select 1`
          proxy.freeze()
          throw new Error('mine')
        }),
    ],
  ]

  test.for(moments)('a %s that gets no answer is seen to be unanswered', async ([, work], { world, database }) => {
    const proxy = await startTcpProxy(database.url!)
    world.defer(proxy.close)
    const pool = (await createPostgresEndpoint(parseDatabaseUrl(proxy.url))).connect({
      max: 1,
      settings: PLAIN_SETTINGS,
      prepare: false,
    })
    world.defer(() => pool.end({ timeout: 0 }))
    const gate = createGate({ log: world.log }, { places: 1, probe: async () => {} })
    const own = trackPool(pool)
    const sql = guardSql({ current: () => own, gate })
    const { oldestMs } = own.flights
    await sql`select 1`

    const outcome = work(proxy, sql).then(
      () => 'done',
      () => 'failed',
    )
    await vi.waitUntil(() => oldestMs() > 100, { timeout: 5_000 })
    // The server must see the end too: what it holds would be in the way of other tests.
    proxy.thaw()
    proxy.reset()
    expect(await outcome).toBe('failed')
    expect(oldestMs()).toBe(0)
  })
})

describe('a connection that breaks with an error', () => {
  test('no query takes the answer of another, and none that was lost looks done', async ({ world, database }) => {
    const proxy = await startTcpProxy(database.url!)
    world.defer(proxy.close)
    const db = await openDatabase({ url: proxy.url, poolMax: 2, dataDir: null, log: world.log })
    world.defer(db.close)
    let wrong = 0
    let stopped = false
    // Queries from setImmediate meet the moment between the events `error` and `close` of the socket.
    const ask = async () => {
      while (!stopped) {
        await new Promise((resolve) => setImmediate(resolve))
        const mine = Math.floor(Math.random() * 1e9)
        const rows = await db.sql<{ mine: number }[]>`select ${mine}::int as mine`.catch(() => undefined)
        if (rows !== undefined && rows[0]?.mine !== mine) wrong += 1
      }
    }
    const askers = Array.from({ length: 4 }, ask)
    for (let n = 0; n < 30; n++) {
      await isBack(db.sql)
      proxy.reset()
    }
    stopped = true
    await Promise.all(askers)
    expect(wrong).toBe(0)
  })
})

describe('the pool', () => {
  test('rolls back when the work throws, and hands the error on', async ({ world }) => {
    const { sql } = await world.replica()
    const name = world.unique('org')
    const running = sql.begin(async (tx) => {
      await tx`insert into organizations (id, slug, name) values (${name}, ${name}, ${name})`
      throw new Error('mine')
    })
    await expect(running).rejects.toThrow('mine')
    expect(await sql`select 1 from organizations where id = ${name}`).toEqual([])
  })

  test('a statement that fails inside a savepoint leaves the transaction whole', async ({ world }) => {
    const { sql } = await world.replica()
    const rows = await sql.begin(async (tx) => {
      await tx.savepoint((nested) => nested`select 1 / 0`).catch(() => {})
      return tx`select 1 as one`
    })
    expect(rows).toEqual([{ one: 1 }])
  })

  test('runs the queries that the work returns as a list', async ({ world }) => {
    const { sql } = await world.replica()
    expect(await sql.begin((tx) => [tx`select 1 as n`, tx`select 2 as n`])).toEqual([[{ n: 1 }], [{ n: 2 }]])
  })

  test('far more transactions and queries than connections all end', async ({ world }) => {
    const { sql } = await world.replica({ poolMax: 2 })
    const results = await Promise.all(
      Array.from({ length: 300 }, (_, n) =>
        n % 2 ? sql.begin((tx) => tx`select ${n}::int as n`) : sql`select ${n}::int as n`,
      ),
    )
    expect(results.map((rows) => rows[0]?.n)).toEqual(Array.from({ length: 300 }, (_, n) => n))
    expect(
      await sql`select 1 from pg_stat_activity where state like 'idle in%' and datname = current_database()`,
    ).toEqual([])
  })

  test('a query that waits for a connection can be cancelled', async ({ world }) => {
    const { sql } = await world.replica({ poolMax: 1 })
    const release = Promise.withResolvers<void>()
    const holding = sql.begin(async (tx) => [await tx`select 1`, await release.promise])
    const waiting = sql`select 2`
    const outcome = waiting.then(
      () => 'done',
      (error: { code: string }) => error.code,
    )
    await new Promise((resolve) => setImmediate(resolve))
    waiting.cancel()
    expect(await outcome).toBe('57014')
    release.resolve()
    await holding
    expect(await sql`select 3 as n`).toEqual([{ n: 3 }])
  })

  test.for(['reserve', 'listen', 'end', 'subscribe'] as const)(
    '%s would go round the gate and is refused',
    async (name, { world }) => {
      const { sql } = await world.replica()
      expect(() => (sql[name] as () => unknown)()).toThrow('guard.ts')
      expect(() => sql`select 1`.cursor()).toThrow('cursors')
    },
  )
})
