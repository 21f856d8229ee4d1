import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { beforeEach, describe, expect, inject, vi } from 'vitest'
import { createTestDatabase, MIGRATIONS, type TestDatabase, withDatabase } from '../../tests/support/database.ts'
import { startOwnPostgres } from '../../tests/support/own-postgres.ts'
import { hasPgBouncer, startPgBouncer } from '../../tests/support/pgbouncer.ts'
import { test as base, requirePostgres, type World } from '../../tests/support/world.ts'
import { inspectConfig } from '../config.ts'
import { type Database, openDatabase } from '../db/client.ts'
import { checkEncryptionKeys } from '../domain/secrets/canary.ts'
import { createSecretsEnvelope, type EncryptionSettings } from '../domain/secrets/keys.ts'
import { migrate } from '../migrations/run.ts'
import { diagnoseDatabase } from './diagnose.ts'
import type { Finding } from './finding.ts'

requirePostgres('the faults are made on a server')

const SECRETS: EncryptionSettings = {
  jwt: 'bJ5k0yqWQ2n8sT4vR7uXzC1dF6gH9jLm',
  betterAuth: 'pA3sD8fG1hJ6kL9qW2eR5tY7uI0oZxCv',
  encryption: undefined,
  encryptionOld: [],
}

interface Look {
  env?: Record<string, string>
  secrets?: EncryptionSettings | null
  now?(): number
}

/** What doctor finds, by name; `place` is a database of the test's own with the whole schema, `empty` one with nothing in it. */
const test = base.extend<{
  place: { url: string; db: Database }
  empty: { url: string; db: Database }
  look(url: string, how?: Look): Promise<Record<string, Finding>>
}>({
  place: async ({ world }, use) => use(await makeDatabase(world, false)),
  empty: async ({ world }, use) => use(await makeDatabase(world, true)),
  look: async ({ world }, use) => {
    await use(async (url, { env = {}, secrets = SECRETS, now = Date.now } = {}) => {
      const { config } = inspectConfig({ NODE_ENV: 'production', DATABASE_URL: url, ...env })
      const open = () => openDatabase({ ...config.db, dataDir: null, log: world.log })
      const findings = await diagnoseDatabase({ open, secrets, now, log: world.log }, config)
      return Object.fromEntries(findings.map((one) => [one.name, one]))
    })
  },
})

async function makeDatabase(world: World, isEmpty: boolean) {
  const database: TestDatabase = await createTestDatabase(inject('testServer'), { log: world.log, empty: isEmpty })
  world.defer(database.drop)
  const db = await database.open()
  world.defer(db.close)
  return { url: database.url!, db }
}

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

describe('the schema', () => {
  test('an empty database: a warning where the start migrates, a fault where it does not', async ({ empty, look }) => {
    expect((await look(empty.url)).schema).toMatchObject({
      state: 'warn',
      detail: expect.stringContaining('0000_init'),
    })
    const { schema } = await look(empty.url, { env: { SKIP_MIGRATIONS: '1' } })
    expect(schema).toMatchObject({ state: 'fail', fix: 'run "lobu migrate"' })
  })

  test('one that is behind, and one that is ahead', async ({ place, look }) => {
    const { sql } = place.db
    await sql`insert into drizzle.__drizzle_migrations (hash, created_at) values ('later', 9000000000000)`
    expect((await look(place.url)).schema).toMatchObject({ state: 'warn', detail: expect.stringContaining('ahead') })
    await sql`delete from drizzle.__drizzle_migrations where created_at >= (
      select max(created_at) from drizzle.__drizzle_migrations where hash <> 'later')`
    const found = await look(place.url, { env: { SKIP_MIGRATIONS: '1' } })
    expect(found.schema).toMatchObject({ state: 'fail', detail: expect.stringMatching(/^behind: lacks \d{4}_/) })
    expect(found.encryption).toMatchObject({ state: 'skip' })
  })

  test('an index that a failed build has left', async ({ world, place, look }) => {
    const { sql, end } = await place.db.dedicated()
    world.defer(end)
    await sql`create table copies as select 1 as id from generate_series(1, 2)`
    await expect(sql`create unique index concurrently copies_id_idx on copies (id)`).rejects.toThrow('could not create')
    expect((await look(place.url)).indexes).toMatchObject({
      state: 'fail',
      fix: expect.stringContaining('"copies_id_idx"'),
    })
    await sql`drop table copies`
    expect((await look(place.url)).indexes).toMatchObject({ state: 'ok' })
  })

  test('a table that lost its wall', async ({ place, look }) => {
    await place.db.sql`alter table secrets disable row level security`
    const found = await look(place.url)
    expect(found['row security']).toMatchObject({ state: 'fail', detail: 'off for secrets' })
    await place.db.sql.unsafe(found['row security']!.fix!.replace(/^run /, ''))
    expect((await look(place.url))['row security']).toMatchObject({ state: 'ok' })
  })

  test('without the role that the wall binds: told before the schema is there, and after', async ({ world, look }) => {
    const own = await startOwnPostgres()
    world.defer(own.destroy)
    const db = await own.database.open({ poolMax: 1 })
    world.defer(db.close)
    await db.sql.unsafe('drop owned by lobu_tenant; drop role lobu_tenant; create role plain login')
    await db.sql.unsafe('alter database postgres owner to plain')
    const url = new URL(own.database.url!)
    expect((await look(url.href))['row security']).toMatchObject({
      state: 'warn',
      fix: expect.stringContaining('create role'),
    })
    url.pathname = '/postgres'
    expect((await look(url.href))['row security']).toMatchObject({ state: 'ok', detail: 'comes with the schema' })
    url.username = 'plain'
    const plain = await look(url.href)
    expect(plain['row security']).toMatchObject({
      state: 'warn',
      fix: expect.stringContaining('grant lobu_tenant to "plain"'),
    })
  })

  test('keys that do not open what is stored', async ({ place, look }) => {
    await checkEncryptionKeys({ sql: place.db.sql, envelope: createSecretsEnvelope(SECRETS) })
    expect((await look(place.url)).encryption).toMatchObject({ state: 'ok' })
    const { encryption } = await look(place.url, {
      secrets: { ...SECRETS, jwt: 'another one of at least 32 characters' },
    })
    expect(encryption).toMatchObject({ state: 'fail', fix: expect.stringContaining('ENCRYPTION_KEYS_OLD') })
    expect((await look(place.url, { secrets: null })).encryption).toMatchObject({ state: 'skip' })
  })

  test('replicas: how many run, two releases at once, and leases that a clock set back has left', async ({
    place,
    look,
  }) => {
    const { sql } = place.db
    const add = (id: string, version: string, interval: string) =>
      sql`insert into replicas (id, version, lease_until) values (${id}, ${version}, now() + ${interval}::interval)`
    await add('replica_a', '1.0.0', '10 minutes')
    await add('replica_gone', '0.9.0', '-1 minute')
    expect((await look(place.url)).replicas).toMatchObject({ state: 'ok', detail: '1 runs, release 1.0.0' })
    await add('replica_b', '1.1.0', '10 minutes')
    expect((await look(place.url)).replicas).toMatchObject({ state: 'warn', detail: '2 run, release 1.0.0 and 1.1.0' })
    await add('replica_c', '1.1.0', '1 day')
    expect((await look(place.url)).replicas).toMatchObject({ state: 'fail', fix: expect.stringContaining('clock') })
  })

  test('what it calls empty is what migrate brings up to date', async ({ world, empty, look }) => {
    await migrate({ database: empty.db, log: world.log }, { dir: MIGRATIONS })
    expect((await look(empty.url)).schema).toMatchObject({ state: 'ok' })
  })
})

describe('the public URL', () => {
  async function serve(world: World, listener: RequestListener) {
    const server = createServer(listener).listen(0, '127.0.0.1')
    await new Promise((resolve) => server.once('listening', resolve))
    world.defer(async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    })
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }
  /** What a gateway says of itself. */
  const gateway =
    (replica: string): RequestListener =>
    (req, res) => {
      const body = req.url?.endsWith('/ready') ? { ready: true, replica } : { service: 'lobu', version: '1.0.0' }
      res.setHeader('content-type', 'application/json').end(JSON.stringify(body))
    }

  test('it is missing, or not encrypted', async ({ place, look }) => {
    expect((await look(place.url))['public url']).toMatchObject({
      state: 'fail',
      detail: expect.stringMatching(/is not set/),
    })
    const plain = await look(place.url, { env: { PUBLIC_WEB_URL: 'http://lobu.example' } })
    expect(plain['public url']).toMatchObject({ state: 'fail', detail: expect.stringMatching(/not https/) })
  })

  test('nobody is there; in development that is nothing to mend', async ({ place, look }) => {
    const env = { PUBLIC_WEB_URL: 'http://127.0.0.1:9' }
    expect((await look(place.url, { env }))['public url']).toMatchObject({
      state: 'fail',
      detail: expect.stringMatching(/does not answer/),
    })
    const development = await look(place.url, { env: { ...env, NODE_ENV: 'development' } })
    expect(development['public url']).toMatchObject({ state: 'ok' })
  })

  test('something else answers', async ({ world, place, look }) => {
    const other = await serve(world, (_req, res) => res.end('<h1>It works!</h1>'))
    const found = await look(place.url, { env: { PUBLIC_WEB_URL: other } })
    expect(found['public url']).toMatchObject({ state: 'fail', detail: expect.stringMatching(/is not a Lobu gateway/) })
  })

  test('it leads elsewhere', async ({ world, place, look }) => {
    const moved = await serve(world, (_req, res) =>
      res.writeHead(301, { location: 'https://lobu.example/x?token=canary' }).end(),
    )
    const found = await look(place.url, { env: { PUBLIC_WEB_URL: moved } })
    expect(found['public url']).toMatchObject({
      state: 'fail',
      detail: expect.stringMatching(/to https:\/\/lobu\.example\/x$/),
    })
  })

  test('a gateway of this database answers, or one of another', async ({ world, place, look }) => {
    await place.db
      .sql`insert into replicas (id, version, lease_until) values ('replica_mine', '1.0.0', now() + interval '1 minute')`
    const mine = await serve(world, gateway('replica_mine'))
    const other = await serve(world, gateway('replica_other'))
    expect((await look(place.url, { env: { PUBLIC_WEB_URL: mine } }))['public url']).toMatchObject({ state: 'ok' })
    const found = await look(place.url, { env: { PUBLIC_WEB_URL: other } })
    expect(found['public url']).toMatchObject({ state: 'warn', detail: expect.stringMatching(/another installation/) })
  })
})
