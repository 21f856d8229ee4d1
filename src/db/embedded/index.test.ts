import { once } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { eq } from 'drizzle-orm'
import { pgTable, text } from 'drizzle-orm/pg-core'
import { drizzle } from 'drizzle-orm/postgres-js'
import { pino } from 'pino'
import postgres, { type Sql } from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type EmbeddedDatabase, startEmbeddedDatabase } from './index.ts'
import { cstring, eachMessage, int32, message, parse } from './protocol.ts'

let database: EmbeddedDatabase
let sql: Sql

const connect = (options: object = {}) =>
  postgres({ max: 4, onnotice: () => {}, ...options, host: 'embedded', socket: () => database.socket() } as object)

beforeAll(async () => {
  database = await startEmbeddedDatabase({ dataDir: null, log: pino({ level: 'silent' }) })
  sql = connect()
})

afterAll(async () => {
  await sql.end()
  await database.stop()
})

/** A client that sends what it is told, for what postgres.js never does. */
async function connectRaw() {
  const socket = database.socket()
  let received = Buffer.alloc(0)
  socket.on('data', (bytes: Uint8Array) => {
    received = Buffer.concat([received, bytes])
  })
  const until = async (type: string) => {
    const types = () => [...eachMessage(received)].map((each) => each.type).join('')
    while (!types().includes(type)) await once(socket, 'data')
    const seen = types()
    received = Buffer.alloc(0)
    return seen
  }
  socket.write(Buffer.concat([int32(8), int32(196_608)]))
  await until('Z')
  return { socket, until }
}

test('statements of many connections do not mix, with parameters and without, prepared and not', async () => {
  const pools = [sql, connect({ prepare: false }), connect({ max: 1, max_pipeline: 1 })]
  const answers = await Promise.all(
    Array.from({ length: 300 }, (_, i) => {
      const pool = pools[i % pools.length] ?? sql
      return i % 2 ? pool`select ${i}::int as n` : pool.unsafe(`select ${i} as n`)
    }),
  )
  expect(answers.map(([row]) => row?.n)).toEqual(Array.from({ length: 300 }, (_, i) => i))
  await Promise.all(pools.slice(1).map((pool) => pool.end()))
})

test('transactions are isolated, and roll back when they fail', async () => {
  await sql`create table counters (id int primary key, n int not null)`
  await sql`insert into counters values (1, 0)`
  const add = (fails: boolean) =>
    sql.begin(async (tx) => {
      const [row] = await tx`select n from counters where id = 1`
      await nextTurn()
      await tx`update counters set n = ${row?.n + 1} where id = 1`
      if (fails) throw new Error('undo')
    })
  const results = await Promise.allSettled(Array.from({ length: 20 }, (_, i) => add(i % 4 === 0)))
  expect(results.filter((result) => result.status === 'rejected')).toHaveLength(5)
  expect(await sql`select n from counters`).toEqual([{ n: 15 }])
})

test('a failed statement fails alone: those pipelined behind it on the same connection are answered', async () => {
  const one = connect({ max: 1 })
  const results = await Promise.allSettled([
    one`select 1 as n`,
    one`select 1 / ${0}::int`,
    one`select nope`,
    one.unsafe('select 2 as n; select 3 as n'),
    one`select ${4}::int as n`,
  ])
  expect(results.map((result) => (result.status === 'fulfilled' ? 'ok' : result.reason.code))).toEqual([
    'ok',
    '22012',
    '42703',
    'ok',
    'ok',
  ])
  await one.end()
})

test('cursors, savepoints and reserved connections work', async () => {
  const seen: number[] = []
  for await (const rows of sql`select generate_series(1, 25) as n`.cursor(10)) seen.push(rows.length)
  expect(seen).toEqual([10, 10, 5])
  await sql`create table notes (n int)`
  await sql.begin(async (tx) => {
    await tx`insert into notes values (1)`
    await tx.savepoint((inner) => inner`insert into notes values (1 / ${0}::int)`).catch(() => {})
  })
  const reserved = await sql.reserve()
  expect(await reserved`select n from notes`).toEqual([{ n: 1 }])
  reserved.release()
})

test('values of 10 MB go in and come out', async () => {
  const large = 'ä'.repeat(5_000_000)
  const [row] = await sql`select ${large}::text as value, octet_length(${large}::text) as bytes`
  expect(row?.bytes).toBe(10_000_000)
  expect(row?.value === large).toBe(true)
  const rows = await sql`select n, repeat('x', 100) as filler from generate_series(1, 50000) as n`
  expect(rows).toHaveLength(50_000)
})

test('a notification reaches each connection that listens, until it stops, and again when it starts anew', async () => {
  const [first, second] = [connect(), connect()]
  const heard: string[] = []
  const waiters: (() => void)[] = []
  const hear = (who: string) => (payload: string) => {
    heard.push(`${who} ${payload}`)
    for (const wake of waiters.splice(0)) wake()
  }
  const until = async (count: number) => {
    while (heard.length < count) await new Promise<void>((resolve) => waiters.push(resolve))
  }
  const listening = await first.listen('Bell "one"', hear('first'))
  await second.listen('Bell "one"', hear('second'))
  await sql.notify('Bell "one"', 'a')
  await until(2)
  await listening.unlisten()
  await sql.begin((tx) => tx`select pg_notify('Bell "one"', 'b')`)
  await until(3)
  await first.listen('Bell "one"', hear('first again'))
  await sql.notify('Bell "one"', 'c')
  await until(5)
  expect(heard.slice(0, 2).sort()).toEqual(['first a', 'second a'])
  expect(heard[2]).toBe('second b')
  expect(heard.slice(3).sort()).toEqual(['first again c', 'second c'])
  await Promise.all([first.end(), second.end()])
})

test('a connection lost inside a transaction rolls it back and lets the others on', async () => {
  await sql`create table lost (n int)`
  const client = await connectRaw()
  client.socket.write(message('Q', cstring('begin; insert into lost values (1)')))
  await client.until('Z')
  const waiting = sql`select count(*)::int as n from lost`.execute()
  client.socket.destroy()
  expect(await waiting).toEqual([{ n: 0 }])
})

test('a connection lost before its Sync commits nothing, and its prepared statements are freed', async () => {
  const client = await connectRaw()
  const bind = message('B', cstring(''), cstring('kept'), Buffer.alloc(6))
  const execute = message('E', cstring(''), Buffer.alloc(4))
  client.socket.write(Buffer.concat([parse('kept', 'insert into lost values (2)'), bind, execute, message('H')]))
  await client.until('C')
  client.socket.destroy()
  expect(await sql`select count(*)::int as n from lost`).toEqual([{ n: 0 }])
  expect(await sql`select name from pg_prepared_statements where name = 'kept'`).toEqual([])
})

test('a failed exchange without Sync does not outlive its connection', async () => {
  const client = await connectRaw()
  client.socket.write(Buffer.concat([parse('', 'select nope'), message('H')]))
  await client.until('E')
  client.socket.destroy()
  expect(await sql`select 1 as n`).toEqual([{ n: 1 }])
})

test('cancelling does no harm', async () => {
  const query = sql`select count(*) from generate_series(1, 200000)`.execute()
  await sql`select 1`
  query.cancel()
  await query.catch(() => {})
  expect(await sql`select 1 as n`).toEqual([{ n: 1 }])
})

test('the event loop turns while a statement runs', async () => {
  let running = true
  let turns = 0
  const query = sql`select count(*)::int as n from generate_series(1, 1000000)`.then((rows) => {
    running = false
    return rows
  })
  for (; running; turns += 1) await nextTurn()
  expect(await query).toEqual([{ n: 1_000_000 }])
  expect(turns).toBeGreaterThan(10)
})

test('times are UTC in ISO form', async () => {
  expect(await sql`select timestamptz '2026-01-02 03:04:05+02' as at, current_setting('TimeZone') as zone`).toEqual([
    { at: new Date('2026-01-02T01:04:05Z'), zone: 'UTC' },
  ])
})

test('vectors, trigrams and drizzle work', async () => {
  await sql`create extension vector`
  await sql`create extension pg_trgm`
  await sql`create table items (id int, body text, embedding vector(3))`
  await sql`create index on items using hnsw (embedding vector_cosine_ops)`
  await sql`create index on items using gin (body gin_trgm_ops)`
  await sql`insert into items select n, 'item ' || n, array[n, 1, 0]::vector from generate_series(1, 500) as n`
  const nearest = await sql.begin(async (tx) => {
    await tx`set local enable_seqscan = off`
    return await tx`select id from items order by embedding <=> ${'[3,1,0]'}::vector limit 1`
  })
  expect(nearest).toEqual([{ id: 3 }])
  expect(await sql`select id from items where body like '%tem 499%'`).toEqual([{ id: 499 }])
  const names = pgTable('names', { name: text().primaryKey() })
  await sql`create table names (name text primary key)`
  const db = drizzle(connect({ max: 2 }))
  await Promise.all(['a', 'b', 'c'].map((name) => db.transaction((tx) => tx.insert(names).values({ name }))))
  expect(await db.select().from(names).where(eq(names.name, 'b'))).toEqual([{ name: 'b' }])
})

test('deep recursion is an error of its statement, not the end of the engine', async () => {
  const brackets = '['.repeat(200_000) + ']'.repeat(200_000)
  await expect(sql`select ${brackets}::text::jsonb`).rejects.toMatchObject({ code: '54001' })
})

test('copy from stdin is refused', async () => {
  await expect(sql`copy lost from stdin`.execute()).rejects.toMatchObject({ code: '0A000' })
})
