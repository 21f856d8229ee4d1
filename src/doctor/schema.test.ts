import { describe, expect } from 'vitest'
import { MIGRATIONS } from '../../tests/support/database.ts'
import { startOwnPostgres } from '../../tests/support/own-postgres.ts'
import { requirePostgres } from '../../tests/support/world.ts'
import { checkEncryptionKeys } from '../domain/secrets/canary.ts'
import { createSecretsEnvelope } from '../domain/secrets/keys.ts'
import { migrate } from '../migrations/run.ts'
import { SECRETS, test } from './test-rig.ts'

requirePostgres('the faults are made on a server')

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
