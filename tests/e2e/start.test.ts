import { createServer } from 'node:net'
import { expect } from 'vitest'
import { openDatabase } from '../../src/db/client.ts'
import { createLogger } from '../../src/lib/logger.ts'
import { schemaState } from '../../src/migrations/run.ts'
import { SECRETS, sendRequest } from '../support/cluster.ts'
import { MIGRATIONS } from '../support/database.ts'
import { followEvents } from '../support/follower.ts'
import { type Gateway, type Program, until } from '../support/gateway.ts'
import { productionEnv, test } from '../support/programs.ts'
import { startTcpProxy } from '../support/tcp-proxy.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('the programs share it')

/** One sentence for a person: no stack, no object, no second line. */
const ONE_LINE = /^\S[^\n]{10,400}\n$/

async function readSchema(url: string) {
  const database = await openDatabase({
    url,
    poolMax: 1,
    dataDir: null,
    log: createLogger({ level: 'silent', pretty: false }),
  })
  const state = await schemaState(database.sql, MIGRATIONS)
  await database.close()
  return state
}

test('production starts with nothing but its database and two secrets, and bootstrap prints a key that works', async ({
  programs,
}) => {
  const env = productionEnv(await programs.database({ empty: true }))
  const gateway = await programs.serve(env)
  await gateway.ready()
  const bootstrap = await programs.run(['bootstrap'], env)
  expect(bootstrap.code).toBe(0)
  expect(bootstrap.stdout).toMatch(/^lobu_[\w-]{32}\n$/)
  const key = bootstrap.stdout.trim()
  expect(bootstrap.stderr).not.toContain(key)

  const opened = await sendRequest('POST', `${gateway.url}/api/v1/agents`, { token: key, body: {} })
  expect(opened.status).toBe(201)
  const { agentId, token } = opened.body as { agentId: string; token: string }
  const url = `${gateway.url}/api/v1/agents/${agentId}`
  const follower = await followEvents(`${url}/events`, { token })
  const posted = await sendRequest('POST', `${url}/messages`, { token, body: { content: '/echo it works' } })
  expect(posted.status).toBe(200)
  const end = await follower.completed(String(posted.body.messageId))
  expect(end.data.finalText).toBe('it works')
  await follower.stop()
  for (const secret of [key, token, ...Object.values(SECRETS)]) expect(gateway.stdout()).not.toContain(secret)
})

test.for([
  ['no secrets', { JWT_SECRET: '', BETTER_AUTH_SECRET: '' }, ['JWT_SECRET', 'BETTER_AUTH_SECRET']],
  ['a placeholder', { JWT_SECRET: 'replace-with-a-long-random-value-x' }, ['JWT_SECRET']],
  ['another placeholder', { BETTER_AUTH_SECRET: 'changeme-changeme-changeme-changeme' }, ['BETTER_AUTH_SECRET']],
  ['one letter again and again', { JWT_SECRET: 'a'.repeat(48) }, ['JWT_SECRET']],
  ['a short secret', { JWT_SECRET: 'k3Jf9sLq2' }, ['JWT_SECRET']],
  ['a short encryption key', { ENCRYPTION_KEY: 'zq8Lx1' }, ['ENCRYPTION_KEY']],
  ['no database', { DATABASE_URL: '' }, ['DATABASE_URL']],
  ['a database of another make', { DATABASE_URL: 'mysql://root:hunter2@db/app' }, ['DATABASE_URL']],
  ['several faults', { PORT: 'eighty', RUN_LEASE_SECONDS: '-7', JWT_SECRET: 'f00' }, ['PORT', 'RUN_LEASE_SECONDS']],
] as const)('%s is refused by name and never by value', async ([, faults, names], { programs }) => {
  const env: Record<string, string> = { ...productionEnv('postgres://nobody@127.0.0.1:1/none'), ...faults }
  const { code, stdout, stderr } = await programs.run(['serve'], env)
  expect(code).toBe(1)
  for (const name of names) expect(stderr).toContain(name)
  for (const value of Object.values(faults)) if (value !== '') expect(stdout + stderr).not.toContain(value)
  expect(stderr).not.toMatch(/\n\s+at /)
})

test('eight migrations at once on an empty database all succeed and leave one schema', async ({ programs }) => {
  const url = await programs.database({ empty: true })
  const env = productionEnv(url)
  const outcomes = await Promise.all(Array.from({ length: 8 }, () => programs.run(['migrate'], env)))
  expect(outcomes.map(({ code, stderr }) => [code, stderr])).toEqual(outcomes.map(() => [0, '']))
  const { applied, known, behind } = await readSchema(url)
  expect({ applied, behind }).toEqual({ applied: known, behind: [] })
})

test('migrate migrates although SKIP_MIGRATIONS is set', async ({ programs }) => {
  const url = await programs.database({ empty: true })
  const { code } = await programs.run(['migrate'], { ...productionEnv(url), SKIP_MIGRATIONS: '1' })
  expect(code).toBe(0)
  expect((await readSchema(url)).behind).toEqual([])
})

test('a replica without a schema is alive, says why it is not ready, and is ready once there is one', async ({
  programs,
}) => {
  const env = productionEnv(await programs.database({ empty: true }))
  const gateway = await programs.serve({ ...env, SKIP_MIGRATIONS: '1' })
  expect((await sendRequest('GET', `${gateway.url}/health`, {})).status).toBe(200)
  const report = await until(async () => {
    const answer = await sendRequest('GET', `${gateway.url}/health/ready`, {})
    expect(answer.status).toBe(503)
    const { schema } = answer.body.subsystems as Record<string, { state: string; detail?: string }>
    return schema?.state === 'down' ? schema : undefined
  }, 'readiness names the schema')
  expect(report.detail).toContain('lobu migrate')
  const refused = await sendRequest('POST', `${gateway.url}/api/v1/agents`, { token: 'lobu_none', body: {} })
  expect(refused).toMatchObject({ status: 503, body: { success: false, code: 'starting' } })
  expect(refused.headers['retry-after']).toBeDefined()
  const early = await programs.run(['bootstrap'], env)
  expect(early).toMatchObject({ code: 1, stdout: '' })
  expect(early.stderr).toMatch(ONE_LINE)

  expect((await programs.run(['migrate'], env)).code).toBe(0)
  await gateway.ready()
  expect((await programs.run(['bootstrap'], env)).code).toBe(0)
})

test('bootstrap says in one sentence that the database is away', async ({ programs }) => {
  const url = 'postgres://lobu:correct-horse@127.0.0.1:1/lobu'
  const { code, stdout, stderr } = await programs.run(['bootstrap'], { ...productionEnv(url), LOG_LEVEL: 'error' })
  expect(code).toBe(1)
  expect(stderr).toMatch(ONE_LINE)
  expect(stderr).toContain('127.0.0.1')
  expect(stdout + stderr).not.toContain('correct-horse')
})

// 69
test('a gateway without its database is alive, says what it waits for, and ends when it is told to', async ({
  programs,
}) => {
  const env = { ...productionEnv('postgres://lobu:correct-horse@127.0.0.1:1/lobu'), METRICS_PORT: '0' }
  const gateway = await programs.serve(env)
  const said = await gateway.logged('waiting for the database')
  expect(said.reason).toMatch(/^The database at 127\.0\.0\.1:1 cannot be reached/)
  expect((await sendRequest('GET', `${gateway.url}/health`, {})).status).toBe(200)
  const ready = await sendRequest('GET', `${gateway.url}/health/ready`, {})
  expect(ready).toMatchObject({ status: 503, body: { ready: false, subsystems: { database: { state: 'down' } } } })
  expect(ready.text).toContain(String(said.reason))
  const { port } = await gateway.logged('metrics listening')
  const figures = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
  expect(figures).toContain('nodejs_eventloop_lag_p99_seconds')
  expect(figures).toMatch(/^lobu_ready 0$/m)
  expect(figures).not.toMatch(/^lobu_queue_sample_age_seconds /m)
  const refused = await sendRequest('POST', `${gateway.url}/api/v1/agents`, { token: 'lobu_none', body: {} })
  expect(refused).toMatchObject({ status: 503, body: { success: false, code: 'starting' } })
  expect(refused.headers['retry-after']).toBeDefined()
  gateway.signal('SIGTERM')
  expect(await gateway.exited).toEqual({ code: 0, signal: null })
  expect(gateway.stdout() + gateway.stderr() + ready.text).not.toContain('correct-horse')
})

const ORDERS = [
  ['postgres', 'migrate', 'replicas'],
  ['postgres', 'replicas', 'migrate'],
  ['migrate', 'postgres', 'replicas'],
  ['migrate', 'replicas', 'postgres'],
  ['replicas', 'postgres', 'migrate'],
  ['replicas', 'migrate', 'postgres'],
] as const

// 69
test.for(ORDERS)('started as %s, %s, %s, all come ready by themselves', async (order, { programs }) => {
  const behind = await programs.database({ empty: true })
  // A port at which nobody answers until Postgres is started.
  let proxy = await startTcpProxy(behind)
  const env = { ...productionEnv(proxy.url), LOG_PRETTY: '0' }
  await proxy.close()
  let migrate: Program | undefined
  let replicas: Gateway[] = []
  const start = {
    async postgres() {
      proxy = await startTcpProxy(behind, { port: Number(new URL(env.DATABASE_URL).port) })
    },
    async migrate() {
      migrate = await programs.start(['migrate'], env)
      if (order.indexOf('postgres') > order.indexOf('migrate')) await migrate.logged('waiting for the database')
    },
    async replicas() {
      replicas = await Promise.all([1, 2].map(() => programs.serve({ ...env, SKIP_MIGRATIONS: '1' })))
    },
  }
  for (const name of order) await start[name]()
  expect(await migrate?.exited).toEqual({ code: 0, signal: null })
  await Promise.all(replicas.map((gateway) => gateway.ready()))
  expect(replicas.flatMap((gateway) => gateway.lines()).filter(({ level }) => level === 'fatal')).toEqual([])
  await Promise.all(replicas.map((gateway) => gateway.destroy()))
  await proxy.close()
})

test('a database that does not exist is said to be missing', async ({ programs }) => {
  const url = new URL(await programs.database())
  url.pathname = '/lobu_nowhere_test'
  const { code, stderr } = await programs.run(['migrate'], { ...productionEnv(url.href), LOG_LEVEL: 'error' })
  expect(code).toBe(1)
  expect(stderr).toMatch(ONE_LINE)
  expect(stderr).toContain('does not exist')
})

test('a port that is taken is named in one sentence, and nothing stays behind', async ({ programs }) => {
  const other = createServer()
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
  const { port } = other.address() as { port: number }
  const env = { ...productionEnv(await programs.database()), PORT: String(port), HOST: '127.0.0.1', LOG_PRETTY: '0' }
  const program = await programs.start(['serve'], env)
  expect(await program.exited).toEqual({ code: 1, signal: null })
  const said = program.lines().filter((line) => line.level === 'fatal')
  expect(said).toHaveLength(1)
  expect(said[0]?.msg).toContain(`Port ${port} on 127.0.0.1 is already in use`)
  expect(program.stderr()).toBe('')
  await new Promise((resolve) => other.close(resolve))
})

test.for(['sevre', 'constructor'])(
  'an unknown command (%s) is answered with the ones there are',
  async (name, { programs }) => {
    const { code, stderr } = await programs.run([name], {})
    expect(code).toBe(2)
    for (const known of ['serve', 'migrate', 'bootstrap', 'version']) expect(stderr).toContain(known)
  },
)

test('SIGTERM is obeyed while another process migrates, however long that takes', async ({ programs }) => {
  const url = await programs.database({ empty: true })
  const database = await openDatabase({
    url,
    poolMax: 1,
    dataDir: null,
    log: createLogger({ level: 'silent', pretty: false }),
  })
  const other = await database.dedicated()
  // The lock of `migrate`.
  await other.sql`select pg_advisory_lock(7262027001)`
  const program = await programs.start(['serve'], { ...productionEnv(url), PORT: '0', LOG_PRETTY: '0' })
  await until(
    async () =>
      (
        await database.sql`select 1 from pg_stat_activity where query like '%pg_try_advisory_lock%' and pid <> pg_backend_pid()`
      ).length > 0,
    'it waits for the lock',
  )
  program.signal('SIGTERM')
  // An end by the signal itself would do anywhere but in a container, where this is process 1.
  expect(await program.exited).toEqual({ code: 0, signal: null })
  await other.end()
  await database.close()
})

test('a replica that waits for its schema outlives an outage of the database', async ({ programs }) => {
  const url = await programs.database({ empty: true })
  const proxy = await startTcpProxy(url)
  const gateway = await programs.serve({ ...productionEnv(proxy.url), SKIP_MIGRATIONS: '1' })
  await gateway.logged('the database schema is behind this release: run "lobu migrate"')
  await proxy.close()
  await gateway.logged('the database went away before its schema was current')
  const back = await startTcpProxy(url, { port: Number(new URL(proxy.url).port) })
  expect((await programs.run(['migrate'], productionEnv(url))).code).toBe(0)
  await gateway.ready()
  await gateway.destroy()
  await back.close()
})

// 36, 69
test('a ready replica whose database goes away says so at the next probe, stays alive, and is ready again by itself', async ({
  programs,
}) => {
  const url = await programs.database()
  const proxy = await startTcpProxy(url)
  const gateway = await programs.serve(productionEnv(proxy.url))
  await gateway.ready()
  await proxy.close()
  await until(async () => {
    const { status, body } = await sendRequest('GET', `${gateway.url}/health/ready`, {})
    const { database, queue } = body.subsystems as Record<string, { state: string }>
    // Named for itself, and not only by what it does to the loops a while later.
    expect(queue?.state === 'ok' || database?.state === 'down').toBe(true)
    return status === 503 && database?.state === 'down'
  }, 'readiness names the database')
  expect((await sendRequest('GET', `${gateway.url}/health`, {})).status).toBe(200)
  const back = await startTcpProxy(url, { port: Number(new URL(proxy.url).port) })
  await gateway.ready()
  await gateway.destroy()
  await back.close()
})

test.for(['version', '--version', '-v'])('%s prints the version and nothing else', async (word, { programs }) => {
  // As in an image that nobody has given any settings.
  const { code, stdout } = await programs.run([word], { NODE_ENV: 'production' })
  expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) })
})

test('a model server that nothing will use is pointed out at the start', async ({ programs }) => {
  const env = { ...productionEnv(await programs.database()), OPENAI_COMPATIBLE_BASE_URL: 'http://127.0.0.1:9/v1' }
  const gateway = await programs.serve(env)
  await gateway.logged('gateway ready')
  const warnings = gateway.lines().filter(({ level }) => level === 'warn')
  expect(warnings.map(({ msg }) => msg).join()).toContain('DEFAULT_MODEL=openai-compatible/')
})
