import { beforeEach, describe, expect, vi } from 'vitest'
import { withDatabase } from '../../tests/support/database.ts'
import { startOwnPostgres } from '../../tests/support/own-postgres.ts'
import { hasPgBouncer, startPgBouncer } from '../../tests/support/pgbouncer.ts'
import { requirePostgres, type World } from '../../tests/support/world.ts'
import type { Database } from '../db/client.ts'
import { test } from './test-rig.ts'

requirePostgres('the faults are made on a server')

/** A user without any right but to log in, gone after the test. */
async function addRole(world: World, { db, url }: { db: Database; url: string }, options = '') {
  const role = world.unique('plain').replaceAll('-', '_')
  await db.sql.unsafe(`create role ${role} login ${options}`)
  world.defer(async () => {
    await db.sql.unsafe(`drop owned by ${role} cascade`)
    await db.sql.unsafe(`drop role ${role}`)
  })
  const own = new URL(url)
  own.username = role
  return { role, url: own.href }
}

test('a sound installation has nothing to fix, and is left as it was', async ({ place, look }) => {
  const before = await fingerprint(place.db)
  const found = await look(place.url)
  const states = Object.values(found).filter(({ name }) => name !== 'public url')
  expect(states.filter(({ state }) => state !== 'ok')).toEqual([])
  expect(states.map(({ name }) => name)).toEqual([
    ...['database', 'tls', 'pooler', 'listen', 'pgvector', 'rights', 'schema', 'indexes', 'row security'],
    ...['encryption', 'replicas', 'clock'],
  ])
  expect(await fingerprint(place.db)).toEqual(before)
})

/** Every row that was written and every relation that is there. */
function fingerprint({ sql }: Database) {
  return sql`
    select (select count(*)::int from pg_class) as relations, (select count(*)::int from encryption_canaries) as canaries,
      (select count(*)::int from replicas) as replicas, (select count(*)::int from drizzle.__drizzle_migrations) as migrations`
}

describe('the way to the database', () => {
  test('a server that is away is told by its address', async ({ look }) => {
    const { database } = await look('postgres://lobu:correct-horse@127.0.0.1:1/lobu')
    expect(database).toMatchObject({
      state: 'fail',
      detail: expect.stringContaining('127.0.0.1:1'),
      fix: expect.stringMatching(/firewall/),
    })
  })

  test('a host name that nobody knows', async ({ look }) => {
    // Too long for a label, so that no resolver is asked.
    const { database } = await look(`postgres://lobu@${'a'.repeat(70)}/lobu`)
    expect(database).toMatchObject({ state: 'fail', detail: expect.stringContaining('cannot be resolved') })
  })

  test('a database that is not there', async ({ place, look }) => {
    const { database } = await look(withDatabase(place.url, 'lobu_nowhere'))
    expect(database).toMatchObject({ state: 'fail', fix: expect.stringContaining('createdb') })
  })

  test('TLS that the server does not offer', async ({ place, look }) => {
    const { database } = await look(`${place.url}?sslmode=require`)
    expect(database).toMatchObject({ state: 'fail', detail: expect.stringContaining('does not offer TLS') })
  })

  test('an encrypted way, and one whose certificate nobody vouches for', async ({ world, look }) => {
    const own = await startOwnPostgres()
    world.defer(own.destroy)
    const db = await own.database.open({ poolMax: 1 })
    world.defer(db.close)
    // The server's own user makes them, in its folder.
    const make =
      'openssl req -x509 -newkey rsa:2048 -nodes -keyout server.key -out server.crt -days 2 -subj /CN=localhost'
    await db.sql.unsafe(`copy (select 1) to program '${make} 2>/dev/null && chmod 600 server.key'`)
    await db.sql.unsafe('alter system set ssl = on')
    await db.sql`select pg_reload_conf()`
    await vi.waitUntil(
      async () => (await db.sql`select 1 from pg_settings where name = 'ssl' and setting = 'on'`).length,
    )
    const { url } = own.database
    const required = await look(`${url}?sslmode=require`)
    expect(required.tls).toMatchObject({ state: 'ok', detail: expect.stringMatching(/^TLSv1\.\d, without looking/) })
    const { database } = await look(`${url}?sslmode=verify-full`)
    expect(database).toMatchObject({ state: 'fail', fix: expect.stringContaining('sslrootcert') })
    expect((await look(url!)).tls).toMatchObject({ state: 'ok', detail: expect.stringMatching(/^off/) })
  })

  test('a password that is wrong', async ({ world, place, look }) => {
    const { role, url } = await addRole(world, place, `password 'right-one'`)
    world.defer(await askForPassword(place.db, role))
    const wrong = new URL(url)
    wrong.password = 'wrong-battery-staple'
    const { database } = await look(wrong.href)
    expect(database).toMatchObject({
      state: 'fail',
      detail: expect.stringContaining('refused the user name or password'),
    })
    expect(JSON.stringify(database)).not.toContain('battery')
    wrong.password = 'right-one'
    expect((await look(wrong.href)).database).toMatchObject({ state: 'ok' })
  })

  test('a server that takes no writes', async ({ place, look }) => {
    const name = new URL(place.url).pathname.slice(1)
    await place.db.sql.unsafe(`alter database ${name} set default_transaction_read_only = on`)
    expect((await look(place.url)).database).toMatchObject({
      state: 'fail',
      detail: expect.stringContaining('no writes'),
    })
  })

  test('clocks that disagree', async ({ place, look }) => {
    const by = (ms: number) => look(place.url, { now: () => Date.now() + ms })
    expect((await by(60_000)).clock).toMatchObject({
      state: 'fail',
      detail: expect.stringMatching(/^\d+\.\d s ahead of the database/),
    })
    expect((await by(-9_000)).clock).toMatchObject({
      state: 'warn',
      detail: expect.stringMatching(/behind the database/),
    })
  })
})

/** Lines for one user come first in the server's own list of who gets in how. Returns how it was. */
async function askForPassword({ sql }: Database, role: string): Promise<() => Promise<unknown>> {
  const [file] = await sql<{ path: string; text: string }[]>`
    select current_setting('hba_file') as path, pg_read_file(current_setting('hba_file')) as text`
  const write = async (text: string) => {
    const lines = text.split('\n').map((line) => `('${line.replaceAll("'", "''")}')`)
    await sql.unsafe(`copy (select * from (values ${lines.join(', ')}) as lines) to '${file!.path}'`)
    await sql`select pg_reload_conf()`
  }
  await write(`host all ${role} all scram-sha-256\n${file!.text}`)
  return () => write(file!.text)
}

describe('poolers', () => {
  beforeEach(({ skip }) => skip(!hasPgBouncer(), 'needs PgBouncer (scripts/postgres-test.sh install)'))

  test('a transaction pooler is named, and what is missing beside it', async ({ world, place, look }) => {
    const pooler = await startPgBouncer(place.url, 'transaction')
    world.defer(pooler.stop)
    const alone = await look(pooler.url)
    expect(alone.pooler).toMatchObject({ state: 'warn', fix: expect.stringContaining('DATABASE_DIRECT_URL') })
    expect(alone.listen).toMatchObject({ state: 'skip' })
    expect(alone.schema).toMatchObject({ state: 'ok' })

    const both = await look(pooler.url, { env: { DATABASE_DIRECT_URL: place.url } })
    expect(both).toMatchObject({ pooler: { state: 'ok' }, listen: { state: 'ok' } })

    const twice = await look(pooler.url, { env: { DATABASE_DIRECT_URL: pooler.url } })
    expect(twice.listen).toMatchObject({ state: 'fail', detail: 'DATABASE_DIRECT_URL is a transaction pooler, too' })
  })

  test('a direct URL that leads to another database, or nowhere', async ({ world, place, empty, look }) => {
    const pooler = await startPgBouncer(place.url, 'transaction')
    world.defer(pooler.stop)
    const other = await look(pooler.url, { env: { DATABASE_DIRECT_URL: empty.url } })
    expect(other.listen).toMatchObject({ state: 'fail', detail: expect.stringContaining('does not hear') })
    const away = await look(pooler.url, { env: { DATABASE_DIRECT_URL: 'postgres://lobu@127.0.0.1:1/x' } })
    expect(away.listen).toMatchObject({ state: 'fail', fix: expect.stringContaining('DATABASE_DIRECT_URL') })
  })

  test('a session pooler is fine', async ({ world, place, look }) => {
    const pooler = await startPgBouncer(place.url, 'session')
    world.defer(pooler.stop)
    expect(await look(pooler.url)).toMatchObject({ pooler: { state: 'ok' }, listen: { state: 'ok' } })
  })
})

describe('rights', () => {
  test('pgvector that this user may not create, and tables that it may not make', async ({ world, empty, look }) => {
    const { role, url } = await addRole(world, empty)
    const found = await look(url)
    expect(found.pgvector).toMatchObject({ state: 'fail', fix: expect.stringContaining('create extension vector') })
    expect(found.rights).toMatchObject({ state: 'fail', detail: expect.stringContaining('nothing in the schema') })

    await empty.db.sql`create extension vector`
    const name = new URL(url).pathname.slice(1)
    await empty.db.sql.unsafe(`grant create on database ${name} to ${role}; grant create on schema public to ${role}`)
    expect(await look(url)).toMatchObject({ pgvector: { state: 'ok' }, rights: { state: 'ok' } })
  })

  test('tables of another user: a fault for who migrates, and none for who does not', async ({
    world,
    place,
    look,
  }) => {
    const { role, url } = await addRole(world, place)
    const name = new URL(url).pathname.slice(1)
    await place.db.sql.unsafe(`
      grant create on database ${name} to ${role}; grant create on schema public to ${role};
      grant usage on schema drizzle to ${role}; grant select on all tables in schema public, drizzle to ${role}`)
    const migrates = await look(url)
    expect(migrates.rights).toMatchObject({ state: 'fail', detail: expect.stringContaining('belong to another user') })
    expect(migrates['row security']).toMatchObject({
      state: 'warn',
      fix: expect.stringContaining('grant lobu_tenant to'),
    })
    const leaves = await look(url, { env: { SKIP_MIGRATIONS: '1' } })
    expect(leaves.rights).toMatchObject({ state: 'ok', detail: expect.stringContaining('another user') })
  })

  test('a user who may not even look is told so, and the other lines are there', async ({ world, place, look }) => {
    const { url } = await addRole(world, place)
    const found = await look(url)
    expect(found.schema).toMatchObject({ state: 'fail', detail: expect.stringContaining('permission denied') })
    expect(found).toMatchObject({ database: { state: 'ok' }, clock: { state: 'ok' } })
  })

  test('pgvector in a schema that nobody searches', async ({ empty, look }) => {
    await empty.db.sql.unsafe('create schema aside; create extension vector schema aside')
    expect((await look(empty.url)).pgvector).toMatchObject({
      state: 'fail',
      fix: expect.stringContaining('alter extension'),
    })
  })
})
