import { expect, vi } from 'vitest'
import { startTcpProxy } from '../../tests/support/tcp-proxy.ts'
import { requirePostgres, test, type World } from '../../tests/support/world.ts'
import { openDatabase, type Sql } from '../db/client.ts'
import { outlastOutage } from './outlast-outage.ts'

requirePostgres('it goes away')

/** A question to a database whose address answers nobody at first. */
async function askAway(world: World, url: string) {
  const first = await startTcpProxy(url)
  const database = await openDatabase({ url: first.url, poolMax: 2, dataDir: null, log: world.log })
  world.defer(database.close)
  await first.close()
  const asked = vi.fn((sql: Sql) => sql`select 1 as n`.then())
  const again = async () => {
    const back = await startTcpProxy(url, { port: Number(new URL(first.url).port) })
    world.defer(back.close)
  }
  return { asked, ask: () => asked(database.sql), again }
}

// 35
test('a question is asked until the database is back', async ({ world, database: { url } }) => {
  const { asked, ask, again } = await askAway(world, url!)
  const answer = outlastOutage(ask, { log: world.log, signal: new AbortController().signal })
  await vi.waitUntil(() => asked.mock.calls.length > 1, { timeout: 30_000 })
  await again()
  expect(await answer).toEqual([{ n: 1 }])
})

test('it is given up when the lease is lost', async ({ world, database: { url } }) => {
  const { asked, ask } = await askAway(world, url!)
  const lease = new AbortController()
  const answer = outlastOutage(ask, { log: world.log, signal: lease.signal })
  const outcome = expect(answer).rejects.toMatchObject({ code: 'database_unavailable' })
  await vi.waitUntil(() => asked.mock.calls.length > 1, { timeout: 30_000 })
  const before = asked.mock.calls.length
  lease.abort()
  await outcome
  // One may be under way in that moment; all of its tries would be more.
  expect(asked.mock.calls.length).toBeLessThanOrEqual(before + 1)
})

test('any other error is told at once', async ({ world }) => {
  const ask = vi.fn(() => Promise.reject(new Error('no such table')))
  const answer = outlastOutage(ask, { log: world.log, signal: new AbortController().signal })
  await expect(answer).rejects.toThrow('no such table')
  expect(ask).toHaveBeenCalledTimes(1)
})
