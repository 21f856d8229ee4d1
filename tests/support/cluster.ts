import { request } from 'node:http'
import { availableParallelism, loadavg } from 'node:os'
import { test as base, inject, onTestFailed } from 'vitest'
import type { Database } from '../../src/db/client.ts'
import { createLogger } from '../../src/lib/logger.ts'
import { createTestDatabase } from './database.ts'
import { type Follower, type FollowOptions, followEvents } from './follower.ts'
import { type BuildChoice, type Gateway, runProgram, startGateway } from './gateway.ts'
import { type OwnPostgres, startOwnPostgres } from './own-postgres.ts'
import { type Patience, rejectLate } from './patience.ts'
import { isPooled, startPgBouncer } from './pgbouncer.ts'
import { type LoadBalancer, startLoadBalancer } from './proxy.ts'
import { createRandom, type Random } from './random.ts'

/** Secrets of a test cluster; nothing outside knows them, and nothing else is signed with them. */
export const SECRETS = {
  JWT_SECRET: 'bJ5k0yqWQ2n8sT4vR7uXzC1dF6gH9jLm',
  BETTER_AUTH_SECRET: 'pA3sD8fG1hJ6kL9qW2eR5tY7uI0oZxCv',
}

/**
 * Short, so that what a dead replica held is taken over soon. But where others keep the machine busy a process may wait for
 * seconds for its turn, and leases would lapse although nobody died, again and again.
 */
export const LEASE_SECONDS = Math.min(20, Math.max(2, Math.ceil(loadavg()[0]! / availableParallelism())))

/** What makes a cluster quick on two cores. Each suite adds its own. */
const SETTINGS = {
  NODE_ENV: 'production',
  RUN_LEASE_SECONDS: String(LEASE_SECONDS),
  WORKERS_BUSY_MAX: '20',
  WORKERS_MAX: '40',
  // Whoever stops a replica takes it out of the balancer first.
  SHUTDOWN_WAIT_SECONDS: '0',
  SHUTDOWN_GRACE_SECONDS: '1',
}

const SILENT = { level: 'silent', pretty: false }

export interface Answer {
  status: number
  headers: Record<string, string | string[] | undefined>
  text: string
  /** The body, when it is JSON. */
  body: Record<string, unknown>
}

export interface Call extends Patience {
  body?: unknown
  /** Sent as it is, with the headers given. */
  raw?: string | Buffer
  headers?: Record<string, string>
  /** Instead of the cluster's key; null sends none. */
  token?: string | null
  /** Origin to ask, instead of the proxy. */
  at?: string
}

/** One conversation, as a client of it sees it. */
export interface Conversation {
  readonly id: string
  readonly token: string
  post(body: string | Record<string, unknown>, call?: Call): Promise<Answer>
  /** Posts and hands back the run's id; fails when it was not accepted. */
  send(content: string, more?: Record<string, unknown>, call?: Call): Promise<{ messageId: string; runId: string }>
  follow(options?: Partial<FollowOptions> & { at?: string }): Promise<Follower>
  eventsUrl(at?: string): string
  cancel(body?: Record<string, unknown>, call?: Call): Promise<Answer>
}

/** Several replicas of the built gateway on one database, behind a proxy that sends each request anywhere. */
export interface Cluster {
  readonly random: Random
  readonly key: string
  readonly proxy: LoadBalancer
  readonly replicas: Gateway[]
  /** Settings that a further replica of this cluster needs. */
  readonly env: Record<string, string>
  /** The running replicas again become the proxy's targets, but for those that are left out. */
  balance(options?: { without?: Gateway[] }): void | Promise<void>
  /** Starts one more replica, waits until it is ready, and puts it behind the proxy. */
  add(env?: Record<string, string>, choice?: BuildChoice): Promise<Gateway>
  call(method: string, path: string, call?: Call): Promise<Answer>
  open(body?: Record<string, unknown>, call?: Call): Promise<Conversation>
  /** A connection to the cluster's database. */
  readonly database: Database
  /** The server under it, when the cluster was made with one of its own. */
  readonly postgres: OwnPostgres | undefined
}

export interface ClusterOptions {
  replicas: number
  env: Record<string, string>
  /** `own`: a server that the tests may stop. */
  postgres?: 'own'
  /** Puts something between the replicas and Postgres; they are given the URL that it returns. */
  between?(url: string): Promise<{ url: string; stop(): Promise<void> }>
  /** Stands in front of the replicas, instead of a balancer that picks any of them for each request. */
  front?(): Promise<LoadBalancer>
  /** Folder of another build, which makes the schema and runs the first replicas. */
  build?: string | undefined
}

/**
 * `clusterOptions`: to be set with `test.override`. `cluster`: one for each test file, on a database of its own, started
 * with the first test. When a test fails, the seed and the ends of all logs are printed; when the file is done, nothing of
 * it is left running.
 */
export const test = base.extend<{
  $worker: object
  $file: { clusterOptions: ClusterOptions; started: StartedCluster }
  $test: { cluster: Cluster }
}>({
  clusterOptions: [
    // biome-ignore lint/correctness/noEmptyPattern: vitest reads the parameter list
    async ({}, use) => use({ replicas: 3, env: {} }),
    { scope: 'file' },
  ],
  started: [
    async ({ clusterOptions }, use) => {
      await using undo = new AsyncDisposableStack()
      const started = await startParts(clusterOptions, undo)
      await use(started)
      started.expectAlive()
    },
    { scope: 'file' },
  ],
  cluster: async ({ started: { cluster, report } }, use) => {
    onTestFailed(() => {
      process.stderr.write(`\nLOBU_TEST_SEED=${cluster.random.seed}\n${report()}`)
    })
    await use(cluster)
  },
})

/** As many connections as one replica asks for, for all of them together. */
const pooled = (url: string) => startPgBouncer(url, 'transaction', 10)

interface StartedCluster {
  cluster: Cluster
  report(): string
  /** @throws Error when a replica ended that nobody ended. */
  expectAlive(): void
}

/** Whatever was started has its end in `undo` before the next part is started, so that one that fails leaves none behind. */
export async function startParts(options: ClusterOptions, undo: AsyncDisposableStack): Promise<StartedCluster> {
  const postgres = options.postgres === 'own' ? await startOwnPostgres() : undefined
  if (postgres) undo.defer(postgres.destroy)
  const database =
    postgres?.database ??
    (await createTestDatabase(inject('testServer'), {
      log: createLogger(SILENT),
      empty: options.build !== undefined,
    }))
  if (!postgres) undo.defer(database.drop)
  if (database.url === undefined) throw new Error('a cluster needs a Postgres server')
  const own = await database.open({ poolMax: 2 })
  undo.defer(() => own.close())
  const between = await (options.between ?? (isPooled() ? pooled : undefined))?.(database.url)
  if (between) undo.defer(between.stop)
  return startCluster({ url: between?.url ?? database.url, database: own, postgres }, options, undo)
}

async function startCluster(
  { url, database, postgres }: { url: string; database: Database; postgres: OwnPostgres | undefined },
  options: ClusterOptions,
  undo: AsyncDisposableStack,
): Promise<StartedCluster> {
  const random = createRandom()
  const proxy = await (options.front ? options.front() : startLoadBalancer({ random }))
  undo.defer(() => proxy.stop())
  const started: Gateway[] = []
  const env = { ...SETTINGS, ...SECRETS, DATABASE_URL: url, PUBLIC_WEB_URL: proxy.url, ...options.env }
  const report = () => started.map((gateway) => gateway.report()).join('\n')

  function balance({ without = [] }: { without?: Gateway[] } = {}) {
    const targets = started.filter((gateway) => !gateway.hasExited() && !without.includes(gateway))
    return proxy.setTargets(targets.map(({ port }) => port))
  }

  async function add(more: Record<string, string> = {}, choice: BuildChoice = { build: options.build }) {
    // By a test that has failed already and still had this to do.
    if (undo.disposed) throw new Error('the cluster is gone')
    const starting = startGateway({ ...env, ...more }, choice)
    undo.defer(() =>
      starting.then(
        (gateway) => gateway.destroy(),
        () => {},
      ),
    )
    const gateway = await starting
    started.push(gateway)
    await gateway.ready()
    await balance()
    return gateway
  }

  async function begin(): Promise<string> {
    const { build } = options
    if (build !== undefined) await mustRun(['migrate'], env, { build })
    const bootstrap = mustRun(['bootstrap'], env, { build })
    const starting = [bootstrap, ...Array.from({ length: options.replicas }, () => add())]
    // Nothing is under way any more when one of them has failed.
    await Promise.allSettled(starting)
    await Promise.all(starting)
    return (await bootstrap).stdout.trim()
  }

  const key = await begin().catch((cause: Error) => {
    throw new Error(`${cause.message}\n${report()}`, { cause })
  })
  const call = (method: string, path: string, { at = proxy.url, token = key, ...rest }: Call = {}) =>
    sendRequest(method, `${at}${path}`, { token, ...rest })
  const cluster: Cluster = {
    ...{ random, key, proxy, env, database, postgres, balance, add, call },
    replicas: started,
    open: (body, opening) => openConversation(cluster, body, opening),
  }
  return {
    cluster,
    report,
    expectAlive() {
      if (started.some((gateway) => gateway.endedByItself())) throw new Error(`a replica ended by itself\n${report()}`)
    },
  }
}

async function mustRun(command: string[], env: Record<string, string>, choice: BuildChoice) {
  const ended = await runProgram(command, env, choice)
  if (ended.code !== 0) throw new Error(`${command} failed: ${ended.stdout}${ended.stderr}`)
  return ended
}

async function openConversation(cluster: Cluster, body: Record<string, unknown> = {}, opening?: Call) {
  const opened = await cluster.call('POST', '/api/v1/agents', { body: { forceNew: true, ...body }, ...opening })
  if (opened.status !== 201) throw new Error(`no conversation: ${opened.status} ${opened.text}`)
  const { agentId: id, token } = opened.body as { agentId: string; token: string }
  const path = `/api/v1/agents/${id}`
  const conversation: Conversation = {
    ...{ id, token },
    eventsUrl: (at = cluster.proxy.url) => `${at}${path}/events`,
    post: (message, call) =>
      cluster.call('POST', `${path}/messages`, {
        ...{ token, body: typeof message === 'string' ? { content: message } : message },
        ...call,
      }),
    async send(content, more, call) {
      const answer = await conversation.post({ content, ...more }, call)
      if (answer.status !== 200) throw new Error(`the message was refused: ${answer.status} ${answer.text}`)
      return answer.body as { messageId: string; runId: string }
    },
    follow: ({ at, ...options } = {}) => followEvents(conversation.eventsUrl(at), { token, ...options }),
    cancel: (target = {}, call) => cluster.call('POST', `${path}/cancel`, { token, body: target, ...call }),
  }
  return conversation
}

/** One request on a connection of its own. */
export function sendRequest(
  method: string,
  url: string,
  { body, raw, headers, token, ...patience }: Call,
): Promise<Answer> {
  const content = raw ?? (body === undefined ? undefined : JSON.stringify(body))
  return new Promise((resolve, reject) => {
    const req = request(url, {
      method,
      agent: false,
      headers: {
        ...(token ? { authorization: `Bearer ${token}` } : {}),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...(content === undefined ? {} : { 'content-length': String(Buffer.byteLength(content)) }),
        ...headers,
      },
    })
    const isWhole = rejectLate(req, reject, { what: `the answer to ${method} ${url}`, ...patience })
    req.on('response', (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (part: string) => {
        text += part
      })
      response.on('end', () => {
        isWhole()
        resolve({ status: response.statusCode ?? 0, headers: response.headers, text, body: parseBody(text) })
      })
      response.on('error', (error) => {
        isWhole()
        reject(error)
      })
    })
    req.on('error', reject)
    req.end(content)
  })
}

function parseBody(text: string): Record<string, unknown> {
  try {
    return JSON.parse(text)
  } catch {
    return {}
  }
}
