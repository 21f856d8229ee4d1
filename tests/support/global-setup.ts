import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { TestProject } from 'vitest/node'
import { openDatabase } from '../../src/db/client.ts'
import { createTemplate } from '../../src/db/embedded/index.ts'
import { createLogger } from '../../src/lib/logger.ts'
import { readMigrations } from '../../src/migrations/files.ts'
import { migrate } from '../../src/migrations/run.ts'
import { dropTestDatabase, MIGRATIONS, type TestServer, withAdmin, withDatabase } from './database.ts'

declare module 'vitest' {
  interface ProvidedContext {
    testServer: TestServer
  }
}

const run = promisify(execFile)
const log = createLogger({ level: 'silent', pretty: false })
const SCRIPT = fileURLToPath(new URL('../../scripts/postgres-test.sh', import.meta.url))
const CLUSTER_PREFIX = 'lobu-test-cluster-'
const WITHOUT_DATABASE = ['structure', 'chart']
/** A database that is older than any run takes belongs to one that crashed. */
const LEFTOVER_MS = 2 * 3_600_000

/**
 * Finds a database for all test files, once for a run: `TEST_DATABASE_URL`; or Postgres with pgvector on this machine, as
 * a throw-away cluster; or the embedded engine, also when `LOBU_TEST_DB=embedded` asks for it. CI does without the last
 * only when asked, because suites that need a server skip themselves there.
 */
export default async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  if (project.vitest.projects.every(({ name }) => WITHOUT_DATABASE.includes(name))) return undefined
  if (process.env.LOBU_TEST_DB === 'embedded') {
    await provideEmbedded(project)
    return undefined
  }
  const given = process.env.TEST_DATABASE_URL
  if (given !== undefined && given !== '') {
    await providePostgres(project, given)
    return undefined
  }
  const cluster = await startCluster()
  if ('url' in cluster) {
    await providePostgres(project, cluster.url)
    return cluster.stop
  }
  if (process.env.CI === 'true') throw new Error(`CI runs the tests on Postgres, and there is none: ${cluster.reason}`)
  say(`no Postgres for the tests (${cluster.reason}); the embedded engine takes its place`)
  await provideEmbedded(project)
  return undefined
}

async function startCluster(): Promise<{ url: string; stop(): Promise<void> } | { reason: string }> {
  await stopAbandonedClusters()
  const dir = await mkdtemp(path.join(tmpdir(), `${CLUSTER_PREFIX}${process.pid}-`))
  try {
    const { stdout } = await run(SCRIPT, ['start', dir, '--fast'])
    const url = /^TEST_DATABASE_URL=(.+)$/m.exec(stdout)?.[1]
    if (url === undefined) return { reason: 'the cluster did not say where it is' }
    return { url, stop: async () => void (await run(SCRIPT, ['stop', dir, '--delete'])) }
  } catch (error) {
    return { reason: String((error as { stderr?: string }).stderr ?? error).trim() }
  }
}

/** A run that was killed leaves its cluster running; the name of the folder says which process to look for. */
async function stopAbandonedClusters() {
  for (const name of await readdir(tmpdir())) {
    const pid = Number(new RegExp(`^${CLUSTER_PREFIX}(\\d+)-`).exec(name)?.[1])
    if (Number.isInteger(pid) && !isAlive(pid)) await run(SCRIPT, ['stop', path.join(tmpdir(), name), '--delete'])
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

async function providePostgres(project: TestProject, url: string) {
  await dropLeftovers(url)
  project.provide('testServer', { kind: 'postgres', url, template: await makeTemplate(url) })
}

/** One database with the whole schema; its name says which schema, so it is made once for many runs. Safe from several at once. */
async function makeTemplate(url: string): Promise<string> {
  const migrations = await readMigrations(MIGRATIONS)
  const hash = createHash('sha256').update(migrations.map((migration) => migration.hash).join())
  const template = `lobu_template_${hash.digest('hex').slice(0, 12)}`
  await withAdmin(url, log, async (admin) => {
    await admin(`select pg_advisory_lock(hashtext('lobu_template'))`)
    const found = await admin(`select 1 from pg_database where datname = '${template}'`)
    if (found.length > 0) return
    const draft = `${template}_draft`
    await admin(`drop database if exists ${draft} with (force)`)
    await admin(`create database ${draft} template template0`)
    const database = await openDatabase({ url: withDatabase(url, draft), poolMax: 1, dataDir: null, log })
    await migrate({ database, log }, { dir: MIGRATIONS })
    await database.close()
    // A connection, autovacuum's too, would keep others from copying it.
    await admin(`alter database ${draft} allow_connections false`)
    await admin(`alter database ${draft} rename to ${template}`)
  })
  return template
}

async function dropLeftovers(url: string) {
  const rows = await withAdmin(url, log, (admin) => admin(`select datname from pg_database where datname like 'lobu%'`))
  for (const { datname } of rows) {
    const [, time] = /^lobu_([0-9a-z]+)_[0-9a-f]+_test$/.exec(String(datname)) ?? []
    if (time === undefined || Date.now() - Number.parseInt(time, 36) < LEFTOVER_MS) continue
    await dropTestDatabase(url, String(datname), log)
  }
}

/** The initialised engine is kept from run to run, under its version. */
async function provideEmbedded(project: TestProject) {
  const require = createRequire(import.meta.url)
  const versions = ['@electric-sql/pglite', '@electric-sql/pglite-pgvector'].map((name) =>
    packageVersion(require, name),
  )
  const templateFile = fileURLToPath(
    new URL(`../../node_modules/.cache/lobu/embedded-${versions.join('-')}.tar.gz`, import.meta.url),
  )
  if (!existsSync(templateFile)) await createTemplate(templateFile)
  project.provide('testServer', { kind: 'embedded', templateFile })
}

function packageVersion(require: NodeJS.Require, name: string): string {
  const entry = require.resolve(name)
  const root = entry.slice(0, entry.lastIndexOf(`node_modules/${name}/`) + `node_modules/${name}/`.length)
  return String(require(`${root}package.json`).version)
}

function say(text: string) {
  process.stderr.write(`${text}\n`)
}
