import { once } from 'node:events'
import { pino } from 'pino'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type EmbeddedDatabase, startEmbeddedDatabase } from './index.ts'
import { cstring, int32, message } from './protocol.ts'

const lines: { msg: string; ended?: boolean; waiting?: number }[] = []
let database: EmbeddedDatabase

beforeAll(async () => {
  const log = pino({ level: 'warn' }, { write: (line: string) => void lines.push(JSON.parse(line)) })
  database = await startEmbeddedDatabase({ dataDir: null, log, stallMs: 100, idleHoldMsMax: 400 })
})

afterAll(() => database.stop())

test('a connection that keeps others waiting is reported and ended, and the engine goes on', async () => {
  const sql = postgres({ max: 1, fetch_types: false, socket: () => database.socket() } as object)
  const holder = database.socket()
  let heard = ''
  holder.on('data', (bytes: Uint8Array) => {
    heard += Buffer.from(bytes).toString('latin1')
  })
  const closed = once(holder, 'close')
  holder.write(Buffer.concat([int32(8), int32(196_608)]))
  holder.write(message('Q', cstring('begin; create table held (n int)')))
  while (!heard.includes('CREATE TABLE')) await once(holder, 'data')

  expect(await sql`select to_regclass('held')::text as name`).toEqual([{ name: null }])
  await closed
  expect(heard).toContain('C57014')
  expect(lines).toContainEqual(expect.objectContaining({ ended: false, waiting: 1 }))
  expect(lines).toContainEqual(expect.objectContaining({ ended: true, waiting: 1 }))
  await sql.end()
})

test('when the engine dies, all that wait fail, later connections fail too, and it is told', async () => {
  // Without array types: postgres.js leaves the failure of that first query of a connection unhandled.
  const sql = postgres({ max: 3, fetch_types: false, socket: () => database.socket() } as object)
  // A C function that takes its argument for an address, here one outside of all memory.
  await sql`create function crash(int) returns int language c as '$libdir/vector', 'vector_dims'`
  const queries = [sql`select crash(${-1}::int)`, sql`select 1`, sql`select pg_sleep(0)`]
  const results = await Promise.allSettled(queries)
  expect(results[0]?.status).toBe('rejected')
  expect(String(await database.failed)).toMatch(/embedded database failed: .*out of bounds/)
  await expect(sql`select 3`.execute()).rejects.toThrow('embedded database failed')
  await sql.end({ timeout: 1 })
})
