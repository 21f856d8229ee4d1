import { eq } from 'drizzle-orm'
import { beforeEach, describe, expect, inject, vi } from 'vitest'
import { createTestDatabase, MIGRATIONS } from '../../tests/support/database.ts'
import { createMigrationsFolder } from '../../tests/support/migrations-folder.ts'
import { hasPgBouncer, startPgBouncer } from '../../tests/support/pgbouncer.ts'
import { test as base, requirePostgres } from '../../tests/support/world.ts'
import { migrate, schemaState } from '../migrations/run.ts'
import { type Database, openDatabase } from './client.ts'
import { agents } from './tables.ts'

requirePostgres('a pooler is in front of it')
beforeEach(({ skip }) => skip(!hasPgBouncer(), 'needs PgBouncer (scripts/postgres-test.sh install)'))

type Mode = 'transaction' | 'session'

/** Opens the file's database through a pooler of its own. */
const test = base.extend<{ through(mode: Mode, options?: { direct?: boolean; hint?: string }): Promise<Database> }>({
  through: async ({ world, database }, use) => {
    await use(async (mode, { direct = false, hint = '' } = {}) => {
      const pooler = await startPgBouncer(database.url!, mode)
      world.defer(pooler.stop)
      const directUrl = direct ? database.url : undefined
      const db = await openDatabase({ url: pooler.url + hint, directUrl, poolMax: 6, dataDir: null, log: world.log })
      world.defer(db.close)
      return db
    })
  },
})

describe('a transaction pooler', () => {
  test('is found, and everything but LISTEN works through it', async ({ world, through }) => {
    const db = await through('transaction')
    expect(await db.describe()).toMatchObject({ pooler: true, poolMode: 'transaction' })

    const name = world.unique('org')
    const results = await Promise.all(
      Array.from({ length: 60 }, async (_, n) => {
        if (n % 3 === 0) return db.sql.begin(async (tx) => (await tx`select ${n}::int as n`)[0]?.n)
        if (n % 3 === 1) return (await db.sql`select ${n}::int as n, ${name}::text as name`)[0]?.n
        await db.orm.select().from(agents).where(eq(agents.organizationId, name))
        return n
      }),
    )
    expect(results).toEqual(Array.from({ length: 60 }, (_, n) => n))
    expect(await db.sql`select current_setting('TimeZone') as zone`).toEqual([{ zone: 'UTC' }])
  })

  test('cannot LISTEN: callers are told to read at once, and that they must poll', async ({ world, through }) => {
    const db = await through('transaction')
    const ready = vi.fn()
    const leave = await db.listen(world.unique('channel'), vi.fn(), ready)
    expect(ready).toHaveBeenCalledOnce()
    expect(db.listening()).toBe(false)
    await leave()
  })

  test('with a direct URL beside it LISTEN works', async ({ world, through }) => {
    const db = await through('transaction', { direct: true })
    const channel = world.unique('channel')
    const heard = vi.fn()
    await db.listen(channel, heard, vi.fn())
    expect(db.listening()).toBe(true)
    await db.sql`select pg_notify(${channel}, 'x')`
    await vi.waitUntil(() => heard.mock.calls.length === 1)
  })

  test('lets migrations through, eight at once, but for those that need a session', async ({ world }) => {
    const empty = await createTestDatabase(inject('testServer'), { log: world.log, empty: true })
    world.defer(empty.drop)
    const pooler = await startPgBouncer(empty.url!, 'transaction')
    world.defer(pooler.stop)
    const replicas = await Promise.all(
      Array.from({ length: 8 }, () => openDatabase({ url: pooler.url, poolMax: 1, dataDir: null, log: world.log })),
    )
    for (const replica of replicas) world.defer(replica.close)
    const runs = await Promise.all(
      replicas.map((database) => migrate({ database, log: world.log }, { dir: MIGRATIONS })),
    )
    const { known, behind } = await schemaState(replicas[0]!.sql, MIGRATIONS)
    expect(behind).toEqual([])
    expect(new Set(runs.flatMap(({ applied }) => applied)).size).toBe(known)

    const late = String(Date.now())
    const files = await createMigrationsFolder({ [`${late}_index`]: '-- lobu:no-transaction\nselect 1' })
    world.defer(files.remove)
    const running = migrate({ database: replicas[0]!, log: world.log }, files)
    await expect(running).rejects.toThrow('set DATABASE_DIRECT_URL')
  })
})

describe('a session pooler', () => {
  test('is found, and LISTEN works through it', async ({ world, through }) => {
    const db = await through('session')
    expect(await db.describe()).toMatchObject({ pooler: true, poolMode: 'session' })
    const channel = world.unique('channel')
    const heard = vi.fn()
    await db.listen(channel, heard, vi.fn())
    await db.sql`select pg_notify(${channel}, 'x')`
    await vi.waitUntil(() => heard.mock.calls.length === 1)
  })

  test('is taken for a transaction pooler when the URL says so', async ({ through }) => {
    const db = await through('session', { hint: '?pgbouncer=true' })
    expect(await db.describe()).toMatchObject({ poolMode: 'transaction' })
  })
})
