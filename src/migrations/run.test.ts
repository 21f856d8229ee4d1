import { describe, expect, inject, vi } from 'vitest'
import { createTestDatabase, MIGRATIONS, type TestDatabase } from '../../tests/support/database.ts'
import { createMigrationsFolder } from '../../tests/support/migrations-folder.ts'
import { test as base, requirePostgres, type World } from '../../tests/support/world.ts'
import { type Database, openDatabase } from '../db/client.ts'
import { explainStatement } from './explain.ts'
import { migrate, schemaState } from './run.ts'

const FIRST = 'create table first (id int primary key);\n--> statement-breakpoint\ninsert into first values (1);'
const SECOND = 'create table second (id int primary key); insert into first values (2);'

/** `empty`: a database without any table of ours, one for each test. */
const test = base.extend<{ empty: TestDatabase }>({
  empty: async ({ world }, use) => {
    const empty = await createTestDatabase(inject('testServer'), { log: world.log, empty: true })
    // Registered first, so done last: after the pools on it are closed.
    world.defer(empty.drop)
    await use(empty)
  },
})

async function opened(world: World, database: TestDatabase): Promise<Database> {
  const db = await database.open()
  world.defer(db.close)
  return db
}

async function folder(world: World, files: Record<string, string>) {
  const made = await createMigrationsFolder(files)
  world.defer(made.remove)
  return made
}

function recorded(db: Database) {
  return db.sql`select created_at::int as at from drizzle.__drizzle_migrations order by id`
}

describe('migrate', () => {
  test('eight at once on an empty database: all succeed and each file is applied once', async ({ world, empty }) => {
    const replicas = await Promise.all(Array.from({ length: 8 }, () => opened(world, empty)))
    const before = await schemaState(replicas[0]!.sql, MIGRATIONS)
    expect(before).toMatchObject({ applied: 0, behind: expect.arrayContaining(['0000_init']), ahead: false })

    const runs = await Promise.all(
      replicas.map((database) => migrate({ database, log: world.log }, { dir: MIGRATIONS })),
    )
    expect(runs.flatMap(({ applied }) => applied).sort()).toEqual(before.behind)
    expect(await schemaState(replicas[0]!.sql, MIGRATIONS)).toEqual({
      applied: before.known,
      known: before.known,
      behind: [],
      ahead: false,
    })
  })

  test('eight at once, one release later: only what is new is applied', async ({ world, empty }) => {
    const files = await folder(world, { '0_first': FIRST })
    const replicas = await Promise.all(Array.from({ length: 8 }, () => opened(world, empty)))
    const all = () => Promise.all(replicas.map((database) => migrate({ database, log: world.log }, files)))
    expect((await all()).flatMap(({ applied }) => applied)).toEqual(['0_first'])
    await files.write({ '0_first': FIRST, '1_second': SECOND })
    expect((await all()).flatMap(({ applied }) => applied)).toEqual(['1_second'])
    expect((await all()).flatMap(({ applied }) => applied)).toEqual([])
    expect(await replicas[0]!.sql`select id from first order by id`).toEqual([{ id: 1 }, { id: 2 }])
  })

  test('a file that fails leaves nothing of itself and keeps what came before; it is named', async ({
    world,
    empty,
  }) => {
    const database = await opened(world, empty)
    const files = await folder(world, {
      '0_first': FIRST,
      '1_broken': 'create table half (id int);\n--> statement-breakpoint\nselect nonsense',
    })
    const running = migrate({ database, log: world.log }, files)
    await expect(running).rejects.toThrow('Migration 1_broken, statement 2: column "nonsense" does not exist')
    expect(await database.sql`select to_regclass('half') as half, to_regclass('first')::text as first`).toEqual([
      { half: null, first: 'first' },
    ])
    await files.write({ '0_first': FIRST, '1_broken': SECOND })
    expect(await migrate({ database, log: world.log }, files)).toEqual({ applied: ['1_broken'] })
  })

  test('an edited file is refused', async ({ world, empty }) => {
    const database = await opened(world, empty)
    const files = await folder(world, { '0_first': FIRST })
    await migrate({ database, log: world.log }, files)
    await files.write({ '0_first': `${FIRST}\n-- a comment`, '1_second': SECOND })
    await expect(migrate({ database, log: world.log }, files)).rejects.toThrow('0_first was edited')
    expect(await recorded(database)).toHaveLength(1)
  })

  test('a file older than one that is applied is refused', async ({ world, empty }) => {
    const database = await opened(world, empty)
    const files = await folder(world, { '0_first': FIRST, '2_third': 'select 3' })
    await migrate({ database, log: world.log }, files)
    await files.write({ '0_first': FIRST, '1_second': SECOND, '2_third': 'select 3' })
    await expect(migrate({ database, log: world.log }, files)).rejects.toThrow('1_second is older')
  })

  test('a database of a newer release is left as it is, with a warning', async ({ world, empty }) => {
    const database = await opened(world, empty)
    const files = await folder(world, { '0_first': FIRST, '1_second': SECOND })
    await migrate({ database, log: world.log }, files)
    const old = await folder(world, { '0_first': FIRST })
    const log = { ...world.log, warn: vi.fn() } as unknown as World['log'] & { warn: ReturnType<typeof vi.fn> }
    expect(await migrate({ database, log }, old)).toEqual({ applied: [] })
    expect(log.warn).toHaveBeenCalledOnce()
    expect(await schemaState(database.sql, old.dir)).toEqual({ applied: 2, known: 1, behind: [], ahead: true })
  })

  test('a file without transaction runs statement by statement', async ({ world, empty }) => {
    const database = await opened(world, empty)
    const index = `-- Why: serves the list.\n-- lobu:no-transaction\ncreate index concurrently if not exists first_idx on first (id);`
    const files = await folder(world, { '0_first': FIRST, '1_index': index })
    expect(await migrate({ database, log: world.log }, files)).toEqual({ applied: ['0_first', '1_index'] })
    expect(await database.sql`select indisvalid from pg_index where indexrelid = 'first_idx'::regclass`).toEqual([
      { indisvalid: true },
    ])
  })

  test('two statements in one part without transaction are refused, since Postgres would make them one', async ({
    world,
    empty,
  }) => {
    const database = await opened(world, empty)
    const files = await folder(world, { '0_first': '-- lobu:no-transaction\nselect 1; select 2;' })
    await expect(migrate({ database, log: world.log }, files)).rejects.toThrow('statement-breakpoint')
  })
})

describe('migrate on a server', () => {
  requirePostgres('it needs roles, or connections that block each other')

  test('a table that is locked: fails soon and changes nothing, or goes on when the lock is freed', async ({
    world,
    empty,
  }) => {
    const database = await opened(world, empty)
    const other = await opened(world, empty)
    const files = await folder(world, { '0_first': FIRST })
    await migrate({ database, log: world.log }, files)
    await files.write({
      '0_first': FIRST,
      '1_alter': 'create table side (id int);\n--> statement-breakpoint\nalter table first add column late int',
    })
    const attempt = (lockTimeoutMs: number) => migrate({ database, log: world.log }, { ...files, lockTimeoutMs })

    const free = Promise.withResolvers<void>()
    const locked = Promise.withResolvers<void>()
    const holding = other.sql.begin(async (tx) => {
      await tx`lock table first in access exclusive mode`
      locked.resolve()
      await free.promise
    })
    await locked.promise
    await expect(attempt(20)).rejects.toThrow(/1_alter, statement 2: .*lock timeout.*pg_stat_activity/)
    expect(await database.sql`select to_regclass('side') as side`).toEqual([{ side: null }])

    const patient = attempt(5_000)
    await vi.waitUntil(
      async () =>
        (await other.sql`select 1 from pg_locks where not granted and relation = 'first'::regclass`).length > 0,
    )
    free.resolve()
    expect(await patient).toEqual({ applied: ['1_alter'] })
    await holding
  })

  test('a file may take its time, whatever bounds the URL or the server puts on statements', async ({
    world,
    empty,
  }) => {
    const files = await folder(world, { '0_slow': `${FIRST}\n--> statement-breakpoint\nselect pg_sleep(0.3)` })
    const url = `${empty.url!}?statement_timeout=100`
    const database = await openDatabase({ url, poolMax: 1, dataDir: null, log: world.log })
    world.defer(database.close)
    expect(await migrate({ database, log: world.log }, files)).toEqual({ applied: ['0_slow'] })
  })

  test('an invalid index of an earlier try is built again and not taken for done', async ({ world, empty }) => {
    const database = await opened(world, empty)
    const files = await folder(world, { '0_first': `${FIRST} insert into first values (2)` })
    await migrate({ database, log: world.log }, files)
    const { sql, end } = await database.dedicated()
    await sql`alter table first add column kind int default 1`
    await expect(sql`create unique index concurrently first_kind_idx on first (kind)`).rejects.toThrow(
      'could not create',
    )
    await sql`update first set kind = id`
    await end()

    const index =
      '-- lobu:no-transaction\ncreate unique index concurrently if not exists first_kind_idx on first (kind)'
    await files.write({ '0_first': `${FIRST} insert into first values (2)`, '1_index': index })
    await migrate({ database, log: world.log }, files)
    expect(await database.sql`select indisvalid from pg_index where indexrelid = 'first_kind_idx'::regclass`).toEqual([
      { indisvalid: true },
    ])
  })

  test('an index built beside the traffic does not wait for a forgotten transaction for ever', async ({
    world,
    empty,
  }) => {
    const database = await opened(world, empty)
    const files = await folder(world, { '0_first': FIRST })
    await migrate({ database, log: world.log }, files)
    const index = `-- lobu:no-transaction\ncreate index concurrently if not exists first_id_idx on first (id)`
    const more = await folder(world, { '0_first': FIRST, '1_index': index })
    const forgotten = await database.dedicated()
    await forgotten.sql.unsafe('begin; insert into first values (7)')

    const running = migrate({ database, log: world.log }, { ...more, lockWaitMs: 200 })
    await expect(running).rejects.toThrow(/1_index.*pg_stat_activity/s)
    await forgotten.end()
    expect(await migrate({ database, log: world.log }, more)).toEqual({ applied: ['1_index'] })
    const [found] =
      await database.sql`select indisvalid as valid from pg_index where indexrelid = 'first_id_idx'::regclass`
    expect(found).toEqual({ valid: true })
  })

  test('is not stopped for good by a run that was killed', async ({ world, empty }) => {
    const database = await opened(world, empty)
    const other = await opened(world, empty)
    const slow = `${FIRST}\n--> statement-breakpoint\nselect pg_sleep(60)`
    const files = await folder(world, { '0_first': slow })
    const dying = migrate({ database, log: world.log }, files)
    await vi.waitUntil(
      async () => {
        const killed = await other.sql`
          select pg_terminate_backend(pid) from pg_stat_activity
           where query like '%pg_sleep%' and datname = current_database() and pid <> pg_backend_pid()`
        return killed.length > 0
      },
      { timeout: 10_000 },
    )
    await expect(dying).rejects.toThrow('cannot be reached')
    await files.write({ '0_first': FIRST })
    expect(await migrate({ database: other, log: world.log }, files)).toEqual({ applied: ['0_first'] })
  })

  test('another process that migrates and does not finish is waited for, but not for ever', async ({
    world,
    empty,
  }) => {
    const database = await opened(world, empty)
    const holder = await (await opened(world, empty)).dedicated()
    world.defer(holder.end)
    const files = await folder(world, { '0_first': FIRST })
    await holder.sql`select pg_advisory_lock(7262027001)`
    const waiting = migrate({ database, log: world.log }, { ...files, lockWaitMs: 50 })
    await expect(waiting).rejects.toThrow('Another process is migrating')
    await holder.sql`select pg_advisory_unlock(7262027001)`
    expect(await migrate({ database, log: world.log }, files)).toEqual({ applied: ['0_first'] })
  })

  test('a role without the right to create the extension gets one sentence with the way out', async ({
    world,
    empty,
  }) => {
    const admin = await opened(world, empty)
    const role = world.unique('plain').replaceAll('-', '_')
    await admin.sql.unsafe(`create role ${role} login`)
    const name = new URL(empty.url!).pathname.slice(1)
    const url = new URL(empty.url!)
    url.username = role
    const database = await openDatabase({ url: url.href, poolMax: 1, dataDir: null, log: world.log })
    world.defer(async () => {
      await database.close()
      await admin.sql.unsafe(`drop owned by ${role} cascade`)
      await admin.sql.unsafe(`drop role ${role}`)
    })
    const run = () => migrate({ database, log: world.log }, { dir: MIGRATIONS })

    await expect(run()).rejects.toThrow(/create extension vector" once in this database as a superuser/)
    await admin.sql`create extension vector`
    await expect(run()).rejects.toThrow(/owner of the database/)
    await admin.sql.unsafe(`grant create on database ${name} to ${role}; grant create on schema public to ${role}`)
    expect((await run()).applied).toContain('0000_init')
  })
})

describe('explainStatement', () => {
  base.for([
    ['0A000', 'extension "vector" is not available', 'pgvector is not installed on the database server'],
    ['58P01', 'could not open extension control file "/x/vector.control": No such file', 'pgvector is not installed'],
    ['42501', 'permission denied to create extension "vector"', 'as a superuser'],
    ['42501', 'permission denied for schema public', 'owner of the database'],
    ['55P03', 'canceling statement due to lock timeout', 'pg_stat_activity'],
  ] as const)('%s %s: says what to do', ([code, message, advice]) => {
    const explained = explainStatement('0000_init', 1, Object.assign(new Error(message), { code }))
    expect(explained.message).toContain(message)
    expect(explained.message).toContain(advice)
  })
})
