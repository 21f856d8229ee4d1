import { expect } from 'vitest'
import { hasPgBouncer, startPgBouncer } from '../../tests/support/pgbouncer.ts'
import { startTcpProxy } from '../../tests/support/tcp-proxy.ts'
import { requirePostgres, test } from '../../tests/support/world.ts'
import { openDatabase, type Sql } from './client.ts'

requirePostgres('a proxy is in front of it')

const IDLE_MS = 300

test('a process that freezes in a transaction does not keep others from its rows', async ({ world, database }) => {
  const proxy = await startTcpProxy(database.url!)
  world.defer(proxy.close)
  const frozen = await openDatabase(options(proxy.url, world.log))
  world.defer(frozen.close)
  const other = await world.replica()
  const id = world.unique('org')
  await other.sql`insert into organizations (id, slug, name) values (${id}, ${id}, 'before')`

  const holding = Promise.withResolvers<void>()
  const thawed = Promise.withResolvers<void>()
  const running = frozen.sql.begin(async (tx) => {
    await tx`select 1 from organizations where id = ${id} for no key update`
    holding.resolve()
    await thawed.promise
    await tx`update organizations set name = 'frozen' where id = ${id}`
  })
  const outcome = expect(running).rejects.toMatchObject({ code: 'database_unavailable' })
  await holding.promise
  proxy.freeze()

  await other.sql`update organizations set name = 'other' where id = ${id}`

  proxy.thaw()
  proxy.reset()
  thawed.resolve()
  await outcome
  expect(await other.sql`select name from organizations where id = ${id}`).toEqual([{ name: 'other' }])
})

test('nor does one that freezes while it sends the next statement of it', async ({ world, database }) => {
  const proxy = await startTcpProxy(database.url!)
  world.defer(proxy.close)
  const frozen = await openDatabase(options(proxy.url, world.log))
  world.defer(frozen.close)
  const other = await world.replica()
  const id = world.unique('org')
  await other.sql`insert into organizations (id, slug, name) values (${id}, ${id}, 'before')`

  const sent = Promise.withResolvers<void>()
  const running = frozen.sql.begin(async (tx) => {
    await tx`select 1 from organizations where id = ${id} for no key update`
    proxy.freezeBehind(1).then(sent.resolve)
    await tx`update organizations set name = 'frozen' where id = ${id}`
  })
  const outcome = expect(running).rejects.toMatchObject({ code: 'database_unavailable' })
  await sent.promise

  await other.sql`update organizations set name = 'other' where id = ${id}`

  proxy.thaw()
  proxy.reset()
  await outcome
  expect(await other.sql`select name from organizations where id = ${id}`).toEqual([{ name: 'other' }])
})

test('one that wakes up finds its transaction over, and its pool goes on', async ({ world, database }) => {
  const db = await openDatabase({ ...options(database.url!, world.log), poolMax: 1 })
  world.defer(db.close)
  const other = await world.replica()
  const pid = Promise.withResolvers<number>()
  const ended = Promise.withResolvers<void>()
  const running = db.sql.begin(async (tx) => {
    pid.resolve((await tx<{ pid: number }[]>`select pg_backend_pid() as pid`)[0]!.pid)
    await ended.promise
    await tx`select 1`
  })
  const outcome = expect(running).rejects.toMatchObject({ code: 'database_unavailable' })
  const backend = await pid.promise
  await expect
    .poll(() => other.sql`select 1 from pg_stat_activity where pid = ${backend}`, { timeout: 10_000 })
    .toHaveLength(0)
  ended.resolve()
  await outcome
  await expect.poll(() => db.sql`select 1 as n`.catch(() => []), { timeout: 10_000 }).toEqual([{ n: 1 }])
})

test('behind a pooler, which swallows settings, the bounds hold for transactions', async ({
  world,
  database,
  skip,
}) => {
  skip(!hasPgBouncer(), 'needs PgBouncer (scripts/postgres-test.sh install)')
  const pooler = await startPgBouncer(database.url!, 'transaction')
  world.defer(pooler.stop)
  const db = await openDatabase(options(pooler.url, world.log))
  world.defer(db.close)
  const other = await world.replica()
  const id = world.unique('org')
  await other.sql`insert into organizations (id, slug, name) values (${id}, ${id}, 'before')`
  const holding = Promise.withResolvers<void>()
  const running = db.sql.begin(async (tx) => {
    await tx`select 1 from organizations where id = ${id} for no key update`
    holding.resolve()
    await new Promise(() => {})
  })
  const outcome = expect(running).rejects.toMatchObject({ code: 'database_unavailable' })
  await holding.promise
  await other.sql`update organizations set name = 'other' where id = ${id}`
  await outcome
})

const moments: [string, (sql: Sql) => Promise<unknown>][] = [
  ['a statement', (sql) => sql`select ${'x'}::text as x`],
  ['the beginning of a transaction', (sql) => sql.begin((tx) => tx`select ${'x'}::text as x`)],
]

test.for(moments)(
  'a process that freezes while it sends %s gives the connections of a pooler back',
  async ([, send], { world, database, skip }) => {
    skip(!hasPgBouncer(), 'needs PgBouncer (scripts/postgres-test.sh install)')
    const pooler = await startPgBouncer(database.url!, 'transaction')
    world.defer(pooler.stop)
    const proxy = await startTcpProxy(pooler.url)
    world.defer(proxy.close)
    const frozen = await openDatabase(options(proxy.url, world.log))
    world.defer(frozen.close)
    const other = await openDatabase(options(pooler.url, world.log))
    world.defer(other.close)
    // As many as the pooler has, so that nobody is served while they are kept.
    await Promise.all([frozen.sql`select pg_sleep(0.1)`, frozen.sql`select pg_sleep(0.1)`])

    const sent = proxy.freezeBehind(2)
    const outcome = Promise.allSettled([send(frozen.sql), send(frozen.sql)])
    await sent
    expect(await other.sql`select ${'y'}::text as y`).toEqual([{ y: 'y' }])

    proxy.thaw()
    proxy.reset()
    await outcome
  },
)

function options(url: string, log: Parameters<typeof openDatabase>[0]['log']) {
  return { url, poolMax: 2, transactionIdleMsMax: IDLE_MS, dataDir: null, log }
}
