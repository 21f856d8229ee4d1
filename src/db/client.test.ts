import { eq } from 'drizzle-orm'
import { bigint, jsonb, pgTable, text, timestamp } from 'drizzle-orm/pg-core'
import { describe, expect, vi } from 'vitest'
import { startTcpProxy } from '../../tests/support/tcp-proxy.ts'
import { requirePostgres, test } from '../../tests/support/world.ts'
import { openDatabase, type Sql } from './client.ts'

const values = pgTable('client_values', {
  id: text('id').primaryKey(),
  at: timestamp('at', { withTimezone: true }),
  plain: timestamp('plain'),
  data: jsonb('data'),
  big: bigint('big', { mode: 'number' }),
})

async function createValues(sql: Sql) {
  await sql`create table if not exists client_values (
    id text primary key, at timestamptz, plain timestamp, data jsonb, big bigint, times timestamptz[])`
}

const noon = new Date('2026-01-02T12:00:00.125Z')
const row = { at: noon, plain: noon, data: { list: ['x', { y: 'é"\\' }] }, big: 9_007_199_254_740_991 }

describe('values', () => {
  test('what drizzle writes the tag reads as it was, and the other way round', async ({ world }) => {
    const { sql, orm } = await world.replica()
    await createValues(sql)
    const [one, two] = [world.unique('row'), world.unique('row')]
    await orm.insert(values).values({ id: one, ...row })
    await sql`insert into client_values (id, at, plain, data, big)
              values (${two}, ${row.at}, ${row.plain}, ${sql.json(row.data)}, ${row.big})`
    for (const id of [one, two]) {
      expect(await orm.select().from(values).where(eq(values.id, id))).toEqual([{ id, ...row }])
      expect(await sql`select id, at, plain, data, big from client_values where id = ${id}`).toEqual([{ id, ...row }])
    }
  })

  test('JSON is stored as what it is and never as a string with JSON in it', async ({ world }) => {
    const { sql, orm } = await world.replica()
    await createValues(sql)
    const ids = ['builder', 'helper', 'text', 'cast'].map(world.unique)
    await orm.insert(values).values({ id: ids[0]!, data: { a: 1 } })
    await sql`insert into client_values (id, data) values (${ids[1]!}, ${sql.json({ a: 1 })})`
    await sql`insert into client_values (id, data) values (${ids[2]!}, ${'{"a":1}'})`
    await sql`insert into client_values (id, data) values (${ids[3]!}, ${JSON.stringify({ a: 1 })}::jsonb)`
    const rows = await sql`select jsonb_typeof(data) as type, data from client_values where id in ${sql(ids)}`
    expect(rows).toEqual(Array(4).fill({ type: 'object', data: { a: 1 } }))
  })

  test('a number past 2^53 is an error and not another number', async ({ world }) => {
    const { sql } = await world.replica()
    await expect(sql`select 9007199254740993 as n`).rejects.toThrow('does not fit')
    expect(await sql`select 1 as n`).toEqual([{ n: 1 }])
  })

  test('arrays come and go as arrays', async ({ world }) => {
    const { sql } = await world.replica()
    const texts = ['a', 'b "c" \\ {d}', '', 'NULL']
    expect(
      await sql`select ${texts}::text[] as texts, ${[1, 2]}::int[] as ints, ${[3]}::bigint[] as bigs,
                       ${sql.array([noon])}::timestamptz[] as times, ${sql.array([true, false])}::bool[] as flags,
                       ${sql.array(['x'])} as strings, array['{"a":1}', null]::jsonb[] as data`,
    ).toEqual([
      { texts, ints: [1, 2], bigs: [3], times: [noon], flags: [true, false], strings: ['x'], data: [{ a: 1 }, null] },
    ])
  })

  test('a time given as text keeps its microseconds', async ({ world }) => {
    const { sql } = await world.replica()
    const [found] = await sql`select (${'2026-01-02 03:04:05.678912+00'}::timestamptz)::text as at`
    expect(found!.at).toBe('2026-01-02 03:04:05.678912+00')
  })
})

describe('the connection', () => {
  test('says which server it is, with times in UTC', async ({ world, database }) => {
    const db = await world.replica()
    expect(await db.describe()).toMatchObject({
      version: expect.stringMatching(/^\d+\.\d+$/),
      pooler: false,
      vector: expect.stringMatching(/^0\.\d+/),
    })
    expect(db.kind).toBe(database.kind)
    expect(await db.sql`select current_setting('TimeZone') as zone`).toEqual([{ zone: 'UTC' }])
    await expect(db.ping(5_000)).resolves.toBeUndefined()
  })

  test('drizzle transactions roll back, also the inner one alone', async ({ world }) => {
    const { sql, orm } = await world.replica()
    await createValues(sql)
    const [outer, inner] = [world.unique('outer'), world.unique('inner')]
    await orm.transaction(async (tx) => {
      await tx.insert(values).values({ id: outer })
      await tx
        .transaction(async (nested) => {
          await nested.insert(values).values({ id: inner })
          throw new Error('mine')
        })
        .catch(() => {})
    })
    expect(await sql`select id from client_values where id in ${sql([outer, inner])}`).toEqual([{ id: outer }])
  })

  test('after close everything is refused at once, and close may be called again', async ({ world }) => {
    const db = await world.replica()
    await Promise.all([db.close(), db.close()])
    await expect(db.sql`select 1`).rejects.toMatchObject({ code: 'database_unavailable' })
    await expect(db.sql.begin((tx) => tx`select 1`)).rejects.toMatchObject({ code: 'database_unavailable' })
  })
})

describe('a Postgres server', () => {
  requirePostgres('the embedded engine has no port')

  test.for([
    ['nothing listens', { port: '1' }, 'cannot be reached (ECONNREFUSED)'],
    ['the database does not exist', { pathname: '/nowhere' }, 'does not exist'],
    ['the host name does not exist', { hostname: 'nowhere.invalid' }, 'cannot be resolved'],
    ['it has no TLS', { search: '?sslmode=require' }, 'does not offer TLS'],
    ['the role does not exist', { username: 'nobody' }, 'refused the user name or password'],
  ] as const)(
    'that cannot be used because %s is refused with one sentence',
    async ([, change, sentence], { world, database }) => {
      const url = new URL(database.url!)
      Object.assign(url, change)
      const opening = openDatabase({ url: url.href, poolMax: 1, dataDir: null, log: world.log })
      await expect(opening).rejects.toThrow(sentence)
    },
  )

  test('that DATABASE_DIRECT_URL names wrongly is not blamed on DATABASE_URL', async ({ world, database }) => {
    const options = { url: database.url!, poolMax: 1, dataDir: null, log: world.log }
    await expect(openDatabase({ ...options, directUrl: 'postgres://u@h:x/' })).rejects.toThrow(/^DATABASE_DIRECT_URL /)
    const away = new URL(database.url!)
    away.port = '1'
    const db = await openDatabase({ ...options, directUrl: away.href })
    world.defer(db.close)
    await expect(db.dedicated()).rejects.toThrow('check host and port in DATABASE_DIRECT_URL')
  })

  test('ends a statement that runs for too long, and an idle transaction', async ({ world, database }) => {
    // As the gateway opens it; what the tests open is left more time in a transaction.
    const { sql, close } = await openDatabase({ url: database.url!, poolMax: 1, dataDir: null, log: world.log })
    world.defer(close)
    const [settings] = await sql`
      select current_setting('statement_timeout') as statement, current_setting('application_name') as name,
             current_setting('idle_in_transaction_session_timeout') as idle, current_setting('jit') as jit`
    expect(settings).toEqual({ statement: '30s', idle: '5s', jit: 'off', name: 'lobu' })
    const dedicated = await (await world.replica()).dedicated()
    world.defer(dedicated.end)
    const [own] = await dedicated.sql`
      select current_setting('statement_timeout') as statement,
             current_setting('idle_in_transaction_session_timeout') as idle`
    expect(own).toEqual({ statement: '0', idle: '1min' })
  })

  test('that goes away is noticed at once: callers are refused fast until it is back', async ({ world, database }) => {
    const proxy = await startTcpProxy(database.url!)
    const db = await openDatabase({ url: proxy.url, poolMax: 2, dataDir: null, log: world.log })
    world.defer(db.close)
    await db.sql`select 1`
    await proxy.close()

    const refused = { code: 'database_unavailable', retryAfterSeconds: 1 }
    await expect(db.sql`select 1`).rejects.toMatchObject(refused)
    // None of these waits for a connection: they all fail in the same instant.
    const all = await Promise.allSettled(Array.from({ length: 500 }, () => db.sql`select 1`))
    expect(all.every(({ status }) => status === 'rejected')).toBe(true)
    await expect(db.orm.select().from(values)).rejects.toMatchObject({ cause: refused })
    await expect(db.ping(1_000)).rejects.toThrow()

    const back = await startTcpProxy(database.url!, { port: Number(new URL(proxy.url).port) })
    world.defer(back.close)
    await vi.waitUntil(
      () =>
        db.ping(1_000).then(
          () => true,
          () => false,
        ),
      { timeout: 10_000 },
    )
    expect(await db.sql`select 1 as n`).toEqual([{ n: 1 }])
  })

  test('that has become a read-only replica is left, for the one that took its place', async ({ world }) => {
    const db = await world.replica({ poolMax: 1 })
    await createValues(db.sql)
    // What a failover does to the connections that survive it.
    await db.sql`select set_config('default_transaction_read_only', 'on', false)`
    const write = () => db.sql`insert into client_values (id) values (${world.unique('late')})`
    await expect(write()).rejects.toMatchObject({ code: 'database_unavailable' })
    await vi.waitUntil(
      () =>
        write().then(
          () => true,
          () => false,
        ),
      { timeout: 10_000 },
    )
  })
})
