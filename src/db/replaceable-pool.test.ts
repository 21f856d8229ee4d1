import { expect } from 'vitest'
import { until } from '../../tests/support/gateway.ts'
import { startTcpProxy } from '../../tests/support/tcp-proxy.ts'
import { requirePostgres, test, type World } from '../../tests/support/world.ts'
import { openDatabase } from './client.ts'

requirePostgres('its connections are ended')

const POOL_MAX = 2

/** A pool whose connections are all being made, each for a question that passes the gate by. */
async function openBusy(world: World, url: string) {
  const proxy = await startTcpProxy(url)
  world.defer(proxy.close)
  const database = await openDatabase({ url: proxy.url, poolMax: POOL_MAX, dataDir: null, log: world.log })
  world.defer(database.close)
  await until(() => proxy.count() === 0, 'the first look at the server is over')
  proxy.freeze()
  const pings = Array.from({ length: POOL_MAX }, () => database.ping(30_000))
  await until(() => proxy.count() === POOL_MAX, 'every place of the driver is taken')
  return { proxy, database, pings: Promise.allSettled(pings) }
}

// 35: the driver ends a pool without what waits in it for a place
test('what waits in a pool that is replaced gets an answer', async ({ world, database: { url } }) => {
  const { proxy, database, pings } = await openBusy(world, url!)
  const outcomes = Promise.allSettled([database.sql.begin((tx) => tx`select 1 as n`), database.sql`select 1 as n`])
  proxy.thaw()
  proxy.hangUp()
  await pings
  for (const outcome of await outcomes) {
    if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'database_unavailable' })
    else expect(outcome.value).toEqual([{ n: 1 }])
  }
  expect(await database.sql`select 1 as n`).toEqual([{ n: 1 }])
  expect(database.load()).toMatchObject({ busy: 0, waiting: 0 })
})
