import { execFile } from 'node:child_process'
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, inject } from 'vitest'
import { openDatabase } from '../../src/db/client.ts'
import { createLogger } from '../../src/lib/logger.ts'
import { sendRequest } from '../support/cluster.ts'
import { withAdmin } from '../support/database.ts'
import { productionEnv, test } from '../support/programs.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('two releases share it')

const log = createLogger({ level: 'silent', pretty: false })
const DIST = fileURLToPath(new URL('../../dist', import.meta.url))
/** What the next release adds: a column with a default, as releases may, and a table. */
const NEXT = `alter table agents add column next_release text not null default 'next';
--> statement-breakpoint
create table next_release (id int primary key);`

/** Main script of a build that is this one and a migration more. Beside our node_modules, of which it needs some. */
let next: string

beforeAll(async () => {
  const cache = fileURLToPath(new URL('../../node_modules/', import.meta.url))
  const dir = await mkdtemp(path.join(cache, '.lobu-next-'))
  await cp(DIST, dir, { recursive: true })
  const journal = path.join(dir, 'migrations/meta/_journal.json')
  const { entries, ...rest } = JSON.parse(await readFile(journal, 'utf8'))
  const later = { ...entries.at(-1), idx: entries.length, when: entries.at(-1).when + 1, tag: '9999_next' }
  await writeFile(journal, JSON.stringify({ ...rest, entries: [...entries, later] }))
  await writeFile(path.join(dir, 'migrations/9999_next.sql'), NEXT)
  next = path.join(dir, 'main.js')
  return () => rm(dir, { recursive: true, force: true })
})

function migrateNext(url: string): Promise<{ code: number; output: string }> {
  const env = { PATH: process.env.PATH, ...productionEnv(url), LOG_PRETTY: '0' }
  return new Promise((resolve) => {
    execFile(process.execPath, [next, 'migrate'], { env }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), output: stdout + stderr })
    })
  })
}

// Each has a database of its own, and one waits for most of a minute.
describe.concurrent('two releases on one schema', () => {
  test('this release starts and answers on the schema of the next one, with a warning', async ({ programs }) => {
    const url = await programs.database()
    expect(await migrateNext(url)).toMatchObject({ code: 0 })
    for (const more of [{}, { SKIP_MIGRATIONS: '1' }]) {
      const env = { ...productionEnv(url), ...more }
      const gateway = await programs.serve(env)
      await gateway.ready()
      await gateway.logged('the database schema is of a newer release, which one release back is made to stand')
      const key = (await programs.run(['bootstrap'], env)).stdout.trim()
      const opened = await sendRequest('POST', `${gateway.url}/api/v1/agents`, { token: key, body: {} })
      expect(opened.status).toBe(201)
    }
    expect(await programs.run(['migrate'], productionEnv(url))).toMatchObject({ code: 0 })
  })

  test('the next release migrates under a gateway of this one, which serves on', async ({ programs }) => {
    const url = await programs.database()
    const gateway = await programs.serve(productionEnv(url))
    await gateway.ready()
    expect(await migrateNext(url)).toMatchObject({ code: 0 })
    const key = (await programs.run(['bootstrap'], productionEnv(url))).stdout.trim()
    const opened = await sendRequest('POST', `${gateway.url}/api/v1/agents`, { token: key, body: {} })
    expect(opened.status).toBe(201)
  })

  // Four tries of ten seconds each, with pauses between them.
  test('a table that somebody holds: migrate gives up with a sentence, non-zero, and has changed nothing', {
    timeout: 240_000,
  }, async ({ programs }) => {
    const url = await programs.database()
    const db = await openDatabase({ url, poolMax: 2, dataDir: null, log })
    const locked = Promise.withResolvers<void>()
    const release = Promise.withResolvers<void>()
    // On a connection of its own, which nothing bounds.
    const holder = await db.dedicated()
    const holding = holder.sql.begin(async (tx) => {
      await tx`set local idle_in_transaction_session_timeout = 0`
      await tx`lock table agents in access exclusive mode`
      locked.resolve()
      await release.promise
    })
    await locked.promise
    const before = await db.sql`select count(*)::int as count from drizzle.__drizzle_migrations`
    const { code, output } = await migrateNext(url)
    expect(code).toBe(1)
    expect(output).toMatch(/9999_next, statement 1: .*lock timeout.*pg_stat_activity/)
    expect(await db.sql`select count(*)::int as count from drizzle.__drizzle_migrations`).toEqual(before)
    expect(await db.sql`select to_regclass('next_release') as made`).toEqual([{ made: null }])
    release.resolve()
    await holding
    expect(await migrateNext(url)).toMatchObject({ code: 0 })
    await holder.end()
    await db.close()
  })

  test('a user who may not create the extension: migrate says in a sentence who must do what', async ({ programs }) => {
    const url = new URL(await programs.database({ empty: true }))
    const role = `plain_${process.pid}_${Date.now().toString(36)}`
    const server = inject('testServer') as { url: string }
    await withAdmin(server.url, log, (run) => run(`create role ${role} login`))
    url.username = role
    const { code, stderr } = await programs.run(['migrate'], { ...productionEnv(url.href), LOG_LEVEL: 'error' })
    await withAdmin(server.url, log, (run) => run(`drop role ${role}`))
    expect(code).toBe(1)
    expect(stderr).toMatch(/create extension vector" once in this database as a superuser and migrate again\.\n$/)
    expect(stderr.trim().split('\n')).toHaveLength(1)
  })
})
