import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pino } from 'pino'
import postgres, { type Sql } from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createTemplate, startEmbeddedDatabase } from './index.ts'

const log = pino({ level: 'silent' })
let root: string
let dataDir: string
let templateFile: string

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'lobu-embedded-'))
  dataDir = join(root, 'data')
  templateFile = join(root, 'build', 'template.tar.gz')
  await createTemplate(templateFile)
})

afterAll(() => rm(root, { recursive: true, force: true }))

async function withDatabase<T>(work: (sql: Sql) => Promise<T>, maintainEveryMs = 60_000): Promise<T> {
  const database = await startEmbeddedDatabase({ dataDir, templateFile, log, maintainEveryMs })
  const sql = postgres({ max: 3, onnotice: () => {}, socket: () => database.socket() } as object)
  try {
    return await work(sql)
  } finally {
    await sql.end({ timeout: 1 })
    await database.stop()
    await database.stop()
  }
}

/** Another process that commits row after row and prints each number once its commit was confirmed. */
function startWriter(): ChildProcess {
  const source = `
    import { pino } from 'pino'
    import postgres from 'postgres'
    import { startEmbeddedDatabase } from ${JSON.stringify(new URL('./index.ts', import.meta.url).href)}
    const [dataDir, templateFile] = process.argv.slice(1)
    const database = await startEmbeddedDatabase({ dataDir, templateFile, log: pino({ level: 'silent' }) })
    const sql = postgres({ max: 4, socket: () => database.socket() })
    for (;;) {
      const rows = await Promise.all([1, 2, 3, 4].map(() => sql\`insert into written default values returning n\`))
      for (const [row] of rows) process.stdout.write(row.n + '\\n')
    }`
  const args = ['--input-type=module', '--eval', source, dataDir, templateFile]
  return spawn(process.execPath, args, { cwd: import.meta.dirname, stdio: ['ignore', 'pipe', 'inherit'] })
}

test('a template is written whole and leaves nothing beside it', async () => {
  expect(await readdir(join(root, 'build'))).toEqual(['template.tar.gz'])
})

test('data outlives a restart, in a folder that is closed to other users', async () => {
  await withDatabase((sql) => sql`create table written (n int generated always as identity)`)
  expect((await stat(join(dataDir, 'postgres'))).mode & 0o777).toBe(0o700)
  expect(await withDatabase((sql) => sql`select count(*)::int as n from written`)).toEqual([{ n: 0 }])
})

test('kill -9 loses nothing that was committed, and a second process is refused meanwhile', async () => {
  const confirmed: number[] = []
  // The second writer goes on with what the first one left behind.
  for (const killAfter of [40, 300]) {
    const writer = startWriter()
    const exited = once(writer, 'exit')
    const lines = createInterface({ input: writer.stdout ?? process.stdin })
    lines.on('line', (line) => confirmed.push(Number(line)))
    await once(lines, 'line')
    await expect(startEmbeddedDatabase({ dataDir, log })).rejects.toThrow(
      `The embedded database in ${join(dataDir, 'postgres')} is in use by another process`,
    )
    while (confirmed.length < killAfter) await once(lines, 'line')
    writer.kill('SIGKILL')
    await exited
  }
  const rows = await withDatabase((sql) => sql<{ n: number }[]>`select n from written`)
  const present = new Set(rows.map((row) => row.n))
  expect(confirmed.filter((n) => !present.has(n))).toEqual([])
})

test('a folder whose first start did not end is initialised anew', async () => {
  await writeFile(join(dataDir, 'postgres.unfinished'), '')
  await rm(join(dataDir, 'postgres', 'global'), { recursive: true })
  expect(await withDatabase((sql) => sql`select to_regclass('written') as name`)).toEqual([{ name: null }])
  expect(await readdir(dataDir)).not.toContain('postgres.unfinished')
})

test('a database that does not start says why, and lets go of the folder', async () => {
  await rm(join(dataDir, 'postgres', 'global'), { recursive: true })
  await expect(startEmbeddedDatabase({ dataDir, log })).rejects.toThrow(
    /embedded database failed: .*PANIC: .*pg_control/,
  )
  await writeFile(join(dataDir, 'postgres.unfinished'), '')
  await withDatabase((sql) => sql`select 1`)
})

test('dead rows are vacuumed and the log is checkpointed by timer, while others work', async () => {
  await withDatabase(async (sql) => {
    await sql`create table churned (n int)`
    await sql`insert into churned select generate_series(1, 1000)`
    await sql`delete from churned`
    const redo = async () => (await sql`select redo_lsn::text as lsn from pg_control_checkpoint()`)[0]?.lsn
    const before = await redo()
    const vacuums = async () =>
      (await sql`select vacuum_count::int as n from pg_stat_user_tables where relname = 'churned'`)[0]?.n
    while ((await vacuums()) === 0) await sql`select 1`
    while ((await redo()) === before) await sql`select 1`
  }, 200)
})
