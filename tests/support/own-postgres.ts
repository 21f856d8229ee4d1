import { execFile } from 'node:child_process'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { createLogger } from '../../src/lib/logger.ts'
import { migrate } from '../../src/migrations/run.ts'
import { createTestDatabase, MIGRATIONS, type TestDatabase, withAdmin } from './database.ts'

const run = promisify(execFile)
const SCRIPT = fileURLToPath(new URL('../../scripts/postgres-test.sh', import.meta.url))
const log = createLogger({ level: 'silent', pretty: false })

/** A Postgres server that one test file has to itself, to do to it what power cuts, failovers and operators do. */
export interface OwnPostgres {
  readonly database: TestDatabase
  /** Ends it as a crash does: nothing is finished and nobody is told. */
  crash(): Promise<void>
  /** Starts it again where it was, and resolves when it takes connections. */
  start(): Promise<void>
  /** All sessions may only read from now on, as on a primary that lost its place; or may write again. */
  setReadOnly(readOnly: boolean): Promise<void>
  destroy(): Promise<void>
}

/** Its folder is named so that the next run of the tests removes what a killed one left behind. */
export async function startOwnPostgres(): Promise<OwnPostgres> {
  const dir = await mkdtemp(path.join(tmpdir(), `lobu-test-cluster-${process.pid}-`))
  const { stdout } = await run(SCRIPT, ['start', dir, '--fast', '--max-connections', '200'])
  const url = /^TEST_DATABASE_URL=(.+)$/m.exec(stdout)![1]!
  const { port } = new URL(url)
  const destroy = async () => void (await run(SCRIPT, ['stop', dir, '--delete']))
  return {
    database: await makeDatabase(url).catch(async (error: unknown) => {
      await destroy()
      throw error
    }),
    crash: async () => void (await run(SCRIPT, ['stop', dir])),
    start: async () => void (await run(SCRIPT, ['start', dir, '--port', port])),
    setReadOnly: (readOnly) =>
      withAdmin(url, log, async (admin) => {
        await admin(`alter system set default_transaction_read_only = ${readOnly ? 'on' : 'off'}`)
        await admin('select pg_reload_conf()')
      }),
    destroy,
  }
}

async function makeDatabase(url: string): Promise<TestDatabase> {
  const database = await createTestDatabase({ kind: 'postgres', url, template: 'template0' }, { log, empty: true })
  const own = await database.open({ poolMax: 1 })
  try {
    await migrate({ database: own, log }, { dir: MIGRATIONS })
  } finally {
    await own.close()
  }
  return database
}
