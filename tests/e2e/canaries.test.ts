import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, readSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { expect, onTestFinished } from 'vitest'
import { openDatabase } from '../../src/db/client.ts'
import { createLogger } from '../../src/lib/logger.ts'
import { type Call, sendRequest } from '../support/cluster.ts'
import { startCollector } from '../support/collector.ts'
import { startEchoingProvider } from '../support/echoing-provider.ts'
import { startFakeSentry } from '../support/fake-sentry.ts'
import { followEvents } from '../support/follower.ts'
import { requireProc, until } from '../support/gateway.ts'
import { test } from '../support/programs.ts'
import { scrape } from '../support/scrape.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('the gateway runs as in production')
requireProc()

/** Nothing else looks like them, not even a part of them, and no pattern of keys does. */
const MARK = 'canary/Zq8+'
const canary = (name: string) => `${name}:${MARK}${[...name].reverse().join('')}~7Hk2Lw9Pd4Xs`

const ENVIRONMENT = {
  JWT_SECRET: canary('jwt-secret'),
  BETTER_AUTH_SECRET: canary('auth-secret'),
  ENCRYPTION_KEY: canary('encryption-key'),
  ENCRYPTION_KEYS_OLD: canary('older-encryption-key'),
  ANTHROPIC_API_KEY: canary('anthropic'),
  OPENAI_API_KEY: canary('openai'),
  OPENAI_COMPATIBLE_API_KEY: canary('compatible'),
  GOOGLE_API_KEY: canary('google'),
  METRICS_AUTH_TOKEN: canary('scraper'),
  GOOGLE_CLIENT_SECRET: canary('google-client'),
  GITHUB_CLIENT_SECRET: canary('github-client'),
  OIDC_CLIENT_SECRET: canary('oidc-client'),
}
/** In settings together with something else. */
const WRAPPED = {
  databasePassword: canary('database-password'),
  mailPassword: canary('mail-password'),
  collectorKey: canary('collector-key'),
}
/** What strangers and clients send where it does not belong, or where it must not stay. */
const SENT = {
  password: canary('password'),
  bearer: canary('bearer'),
  basic: canary('basic'),
  cookie: canary('cookie'),
  header: canary('api-key-header'),
  query: canary('query'),
  invitation: canary('invitation'),
  traceState: canary('trace-state'),
}
/** What people and models say; it is in the database and on its streams, and nowhere else. */
const SAID = {
  message: canary('message'),
  answer: 'You called me with',
  instructions: canary('instructions'),
  webhookQuery: canary('webhook-query'),
  mcpUrl: canary('mcp-url'),
}
const OWN = {
  organizationSecret: canary('organization-secret'),
  agentSecret: canary('agent-secret'),
  organizationKey: canary('organization-key'),
  agentKey: canary('agent-key'),
  headerLiteral: canary('header-literal'),
  urlLiteral: canary('url-literal'),
  tooLarge: canary('too-large'),
  notAKey: canary('not-a-key'),
  misplaced: canary('misplaced'),
}

/** All that answers requests of clients says, but for the answers that hand a credential out. */
function createRecorder(url: string) {
  const heard: string[] = []
  const ask = async (method: string, path: string, call: Call) => {
    const answer = await sendRequest(method, `${url}${path}`, call)
    return { answer, heard: JSON.stringify(answer.headers) + answer.text }
  }
  return {
    heard,
    async call(method: string, path: string, call: Call) {
      const { answer, heard: words } = await ask(method, path, call)
      heard.push(words)
      return answer
    },
    /** Its answer is meant to hold `secret(answer)`, and nothing else. */
    async handOut(method: string, path: string, call: Call, secret: (body: Record<string, unknown>) => unknown) {
      const { answer, heard: words } = await ask(method, path, call)
      const value = String(secret(answer.body))
      expect(value.length, answer.text).toBeGreaterThan(20)
      heard.push(words.replaceAll(value, ''))
      return { answer, value }
    },
  }
}

/** Takes webhooks, and keeps what it was sent. */
async function startReceiver() {
  const seen: string[] = []
  const server = createServer(async (req, res) => {
    seen.push(JSON.stringify(req.headers) + (await text(req)))
    res.end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  return { seen, host }
}

/** Each row of each table, as text; `bytea` stands there in hex. */
async function readTables(url: string): Promise<Map<string, string>> {
  const log = createLogger({ level: 'silent', pretty: false })
  const database = await openDatabase({ url, poolMax: 1, dataDir: null, log })
  const tables = await database.sql<{ schema: string; name: string }[]>`
    select schemaname as schema, tablename as name from pg_tables
    where schemaname not in ('pg_catalog', 'information_schema')`
  const texts = new Map<string, string>()
  for (const { schema, name } of tables) {
    const rows = await database.sql<
      { row: string }[]
    >`select t::text as row from ${database.sql(`${schema}.${name}`)} t`
    texts.set(name, rows.map(({ row }) => row).join('\n'))
  }
  await database.close()
  return texts
}

const formsOf = (value: string) => [
  value,
  JSON.stringify(value).slice(1, -1),
  encodeURIComponent(value),
  Buffer.from(value).toString('hex'),
]

test('no secret that the gateway knows is in a log, a table, an answer, a stream or a worker', async ({ programs }) => {
  const provider = await startEchoingProvider()
  onTestFinished(provider.stop)
  const receiver = await startReceiver()
  const database = await programs.database()
  const collector = await startCollector('http/protobuf')
  const sentry = await startFakeSentry()
  const base = {
    NODE_ENV: 'production',
    DATABASE_URL: withPassword(database),
    LOG_LEVEL: 'trace',
    SHUTDOWN_WAIT_SECONDS: '0',
  }
  const env = {
    ...{ ...base, ...ENVIRONMENT, RUN_ATTEMPTS_MAX: '1', WEBHOOK_ALLOWED_HOSTS: receiver.host },
    ...{ ANTHROPIC_BASE_URL: provider.url, OPENAI_BASE_URL: provider.url, OPENAI_COMPATIBLE_BASE_URL: provider.url },
    ...{ GOOGLE_BASE_URL: provider.url, DEFAULT_MODEL: 'openai-compatible/m' },
    ...{ METRICS_PORT: '0', SENTRY_DSN: sentry.dsn, OTEL_EXPORTER_OTLP_ENDPOINT: collector.url },
    ...{
      OTEL_EXPORTER_OTLP_HEADERS: `x-key=${encodeURIComponent(WRAPPED.collectorKey)}`,
      OTEL_BSP_SCHEDULE_DELAY: '100',
    },
    // Nobody is there; a mail that cannot be sent is an error that is reported.
    ...{ SMTP_URL: `smtp://me:${encodeURIComponent(WRAPPED.mailPassword)}@127.0.0.1:9`, MAIL_FROM: 'lobu@example.com' },
    ...{
      GOOGLE_CLIENT_ID: 'google',
      GITHUB_CLIENT_ID: 'github',
      OIDC_CLIENT_ID: 'oidc',
      OIDC_ISSUER: 'http://127.0.0.1:9',
    },
    ...{
      GOOGLE_ISSUER_URL: 'http://127.0.0.1:9',
      GITHUB_BASE_URL: 'http://127.0.0.1:9',
      GITHUB_API_URL: 'http://127.0.0.1:9',
    },
  }
  const gateway = await programs.serve(env)
  await gateway.ready()
  const bootstrap = await programs.run(['bootstrap'], env)
  const key = bootstrap.stdout.trim()
  const { call, handOut, heard } = createRecorder(gateway.url)
  const admin = (method: string, path: string, body?: unknown) =>
    call(method, `/api/default${path}`, { token: key, ...(body === undefined ? {} : { body }) })

  const webhookKey = await handOut('GET', '/api/default/webhooks/key', { token: key }, (body) => body.key)
  const tokens: string[] = []
  const streams: string[] = []
  const workers = new Map<number, string>()

  /** One message in a new conversation, to its end. */
  async function say(content: string, opening: Record<string, unknown> = {}) {
    const opened = { token: key, body: { forceNew: true, ...opening } }
    const { answer, value: token } = await handOut('POST', '/api/v1/agents', opened, (body) => body.token)
    tokens.push(token)
    const path = `/api/v1/agents/${answer.body.agentId}`
    const follower = await followEvents(`${gateway.url}${path}/events`, { token })
    const body = { content, webhookUrl: `http://${receiver.host}/hook?key=${encodeURIComponent(SAID.webhookQuery)}` }
    const posted = await call('POST', `${path}/messages`, { token, body })
    expect(posted.status, posted.text).toBe(200)
    const end = await follower.completed(String(posted.body.messageId))
    for (const pid of gateway.workers()) workers.set(pid, readWorker(pid) || workers.get(pid) || '')
    streams.push(JSON.stringify(follower.events()))
    await follower.stop()
    for (const more of ['', '/history/session/messages', '/history/session/stats', '/history/status']) {
      await call('GET', `${path}${more}`, { token })
    }
    await call('GET', `/api/v1/runs/${posted.body.runId}`, { token })
    return { status: String(end.data.status), text: String(end.data.finalText), warnings: answer.body.warnings }
  }

  // The environment's keys, with each way to fail.
  expect(await say(`hello ${SAID.message}`)).toMatchObject({
    status: 'completed',
    text: 'You called me with [redacted]. Done.',
  })
  for (const status of [400, 401, 403, 404, 429, 500, 503]) {
    expect((await say(`fail ${status}`)).status).toBe('failed')
  }
  await say('cut')
  for (const model of ['anthropic/m', 'openai/m', 'google/m']) {
    expect((await say('fail 400 fail 400', { model })).status).toBe('failed')
  }

  // Secrets and keys of the organization and of an agent, set well and badly.
  await admin('POST', '/agents', { agentId: 'helper', model: 'openai-compatible/m', instructions: SAID.instructions })
  const puts: [string, unknown, number][] = [
    ['/secrets/TOKEN', { value: OWN.organizationSecret }, 201],
    ['/agents/helper/secrets/TOKEN', { value: OWN.agentSecret, allowedHosts: ['mcp.test'] }, 201],
    ['/secrets/LARGE', { value: OWN.tooLarge.repeat(500) }, 400],
    ['/secrets/BAD', { value: [OWN.notAKey] }, 400],
    ['/secrets/bad-name', { value: OWN.notAKey }, 400],
    ['/secrets/BAD', { value: 'x', allowedHosts: [OWN.misplaced] }, 400],
    ['/providers/openai-compatible/api-key', { value: `${OWN.notAKey} with a space` }, 400],
    ['/providers/nobody/api-key', { value: OWN.notAKey }, 404],
    ['/agents/nobody/secrets/TOKEN', { value: OWN.notAKey }, 404],
    ['/providers/openai-compatible/api-key', { value: OWN.organizationKey }, 201],
  ]
  for (const [path, body, status] of puts) expect((await admin('PUT', path, body)).status, path).toBe(status)
  expect((await say('hello')).text).toContain('[redacted]')
  await say('fail 400')
  const agentKey = await admin('PUT', '/agents/helper/providers/openai-compatible/api-key', { value: OWN.agentKey })
  expect(agentKey.status).toBe(201)
  expect((await say('hello', { agentId: 'helper' })).text).toContain('[redacted]')
  await say('fail 400', { agentId: 'helper' })
  const mcpServers = {
    literal: {
      url: `https://mcp.test/?key=${OWN.urlLiteral}`,
      headers: { authorization: `Bearer ${OWN.headerLiteral}` },
    },
    reference: {
      url: `https://mcp.test/?${encodeURIComponent(SAID.mcpUrl)}`,
      headers: { authorization: reference('TOKEN'), other: reference('UNKNOWN') },
    },
  }
  const { warnings } = await say('hello', { agentId: 'helper', mcpServers })
  expect(warnings).toEqual([expect.stringContaining('UNKNOWN')])
  for (const path of ['/secrets', '/agents/helper/secrets', '/providers', '/agents', '/agents/helper']) {
    expect((await admin('GET', path)).status, path).toBe(200)
  }
  for (const path of ['/health/ready', '/api/docs/openapi.json', '/api/v1/agents'])
    await call('GET', path, { token: key })
  await call('GET', '/api/v1/agents', { token: `${key}x` })
  await sendWhatDoesNotBelong(call, key)
  await breakInserts(database, 'organization_limits', [ENVIRONMENT.JWT_SECRET, ...Object.values(WRAPPED), OWN.agentKey])
  expect((await admin('PUT', '/limits', { ...NO_LIMITS, runsMax: 7 })).status).toBe(500)
  await until(() => receiver.seen.length >= 10, 'webhooks were called')
  const scraped = await scrape(gateway, { authorization: `Bearer ${ENVIRONMENT.METRICS_AUTH_TOKEN}` })
  const rotation = await programs.run(['secrets', 'rotate'], env)
  expect(rotation).toMatchObject({ code: 0, stdout: '0 values were sealed anew.\n' })
  // Each takes a second or two.
  const remembered = gateway
    .workers()
    .filter((_, at) => at % 5 === 0)
    .map(findInMemory)
  const own = findInMemory(gateway.pid)
  gateway.signal('SIGTERM')
  await gateway.exited

  // All of it was really used.
  for (const used of [
    ENVIRONMENT.OPENAI_COMPATIBLE_API_KEY,
    ENVIRONMENT.ANTHROPIC_API_KEY,
    OWN.organizationKey,
    OWN.agentKey,
  ]) {
    expect(provider.keys).toContain(used)
  }
  expect([...workers.values()].filter((words) => words !== '').length).toBeGreaterThan(0)
  expect(own, 'the same look finds them in the gateway').not.toEqual([])
  expect(remembered.length).toBeGreaterThan(0)
  expect(remembered).toEqual(remembered.map(() => []))

  const places = new Map([
    ['log', gateway.stdout() + gateway.stderr() + rotation.stdout + rotation.stderr + bootstrap.stderr],
    ['answers', heard.join('\n')],
    ['streams', streams.join('\n')],
    ['webhooks', receiver.seen.join('\n')],
    ['workers', [...workers.values()].join('\n')],
    ...[...(await readTables(database))].map(([name, rows]) => [`table ${name}`, rows] as const),
  ])
  const told = [
    ['metrics', scraped.text],
    ['traces', collector.bodies()],
    ['error reports', sentry.raw()],
  ] as const
  for (const [place, words] of told) places.set(place, words)
  const secrets = { ...ENVIRONMENT, ...WRAPPED, ...OWN, ...SENT, apiKey: key, webhookKey: webhookKey.value }
  const leaks: string[] = []
  for (const [place, words] of places) {
    for (const [name, value] of [
      ...Object.entries(secrets),
      ...tokens.map((token) => ['session token', token] as const),
    ]) {
      if (formsOf(value).some((form) => words.includes(form))) leaks.push(`${name} in ${place}`)
    }
  }
  for (const place of ['log', 'metrics', 'traces', 'error reports']) {
    for (const [name, words] of Object.entries(SAID)) {
      if (formsOf(words).some((form) => places.get(place)!.includes(form))) leaks.push(`${name} in ${place}`)
    }
  }
  expect(leaks).toEqual([])
  expect(Object.keys(secrets).length).toBeGreaterThanOrEqual(30)
  // The search itself finds what is there.
  expect(places.get('table secrets')).toContain('TOKEN')
  expect(places.get('answers')).toContain('[redacted]')
  expect(places.get('metrics')).toContain('model="m"')
  expect(places.get('traces')).toContain('chat m')
  expect(places.get('error reports')).toContain('the bug quotes [redacted]')
  expect(places.get('table messages')).toContain(SAID.message)
  expect(places.get('table event_log')).toContain('redacted')
})

const reference = (name: string) => `\${secret:${name}}`

const NO_LIMITS = {
  requestsPerMinute: null,
  keyRequestsPerMinute: null,
  tokensPerMonth: null,
  costMicrosPerMonth: null,
}

/** A bug, as the gateway sees it: the message of an error quotes what it must not. */
async function breakInserts(url: string, table: string, secrets: string[]) {
  const database = await openDatabase({
    url,
    poolMax: 1,
    dataDir: null,
    log: createLogger({ level: 'silent', pretty: false }),
  })
  const quoted = secrets.join(' and ').replaceAll("'", "''")
  await database.sql.unsafe(`
    create function fail() returns trigger language plpgsql as $$
    begin raise exception 'the bug quotes %', '${quoted}'; end $$`)
  await database.sql.unsafe(
    `create trigger fail before insert or update on ${table} for each row execute function fail()`,
  )
  await database.close()
}

/** The tests' server asks for none, and takes any. */
function withPassword(url: string): string {
  const changed = new URL(url)
  changed.password = encodeURIComponent(WRAPPED.databasePassword)
  return changed.href
}

/** Requests as they come from strangers, from clients that are set up wrongly, and from people who mistype. */
async function sendWhatDoesNotBelong(
  call: (method: string, path: string, call: Call) => Promise<unknown>,
  key: string,
) {
  const query = encodeURIComponent(SENT.query)
  const misplaced = {
    cookie: `lobu.session_token=${SENT.cookie}`,
    'x-api-key': SENT.header,
    tracestate: `x=${SENT.traceState}`,
  }
  await call('GET', `/api/default/agents?token=${query}`, { token: key, headers: misplaced })
  await call('GET', `/nowhere?key=${query}`, { token: SENT.bearer, headers: misplaced })
  await call('GET', '/api/v1/agents', { token: null, headers: { ...misplaced, authorization: `Basic ${SENT.basic}` } })
  await call('GET', `/invite/${encodeURIComponent(SENT.invitation)}`, { token: null })
  const person = { email: 'somebody@example.com', password: SENT.password, name: 'Somebody' }
  for (const path of ['sign-in/email', 'sign-up/email'])
    await call('POST', `/api/auth/${path}`, { token: null, body: person })
}

/** What can be seen of a worker from outside: its arguments, its environment, what it has open, and its folder. */
function readWorker(pid: number): string {
  const at = `/proc/${pid}`
  try {
    const open = readdirSync(`${at}/fd`).map((fd) => readlinkSync(`${at}/fd/${fd}`))
    const files = readdirSync(`${at}/cwd`, { recursive: true, withFileTypes: true })
    const texts = files.map(
      (file) => file.name + (file.isFile() ? readFileSync(`${file.parentPath}/${file.name}`) : ''),
    )
    const own = ['cmdline', 'environ'].map((name) => readFileSync(`${at}/${name}`, 'utf8'))
    return [...own, ...open, ...texts].join('\n')
  } catch {
    return ''
  }
}

/** The names of canaries in the memory of a process, up to the first piece of it that has any. */
function findInMemory(pid: number): string[] {
  const found = new Set<string>()
  const memory = openSync(`/proc/${pid}/mem`, 'r')
  for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
    const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line) ?? []
    if (from === undefined || to === undefined) continue
    const [start, end] = [Number.parseInt(from, 16), Number.parseInt(to, 16)]
    for (let at = start; at < end && found.size === 0; at += PIECE)
      findCanaries(readPiece(memory, at, Math.min(PIECE + 256, end - at)), found)
  }
  closeSync(memory)
  return [...found]
}

const PIECE = 8 * 1_048_576
/** Bytes in which the name of a canary lies. */
const BEFORE = 80

function readPiece(memory: number, at: number, length: number): Buffer {
  const piece = Buffer.alloc(length)
  try {
    return piece.subarray(0, readSync(memory, piece, 0, length, at))
  } catch {
    return piece.subarray(0, 0)
  }
}

/** As the engine keeps texts: a byte for each character, or two. */
function findCanaries(piece: Buffer, found: Set<string>) {
  for (const encoding of ['latin1', 'utf16le'] as const) {
    const mark = Buffer.from(MARK, encoding)
    // What has its name before this piece was found at the end of the last one.
    for (let at = piece.indexOf(mark, BEFORE); at >= 0; at = piece.indexOf(mark, at + 1)) {
      const before = piece.subarray(at - BEFORE, at).toString(encoding)
      const name = /([\w-]+):$/.exec(before)?.[1] ?? 'unnamed'
      // What a model is told passes through a worker.
      if (name !== 'message' && name !== 'instructions') found.add(name)
    }
  }
}
