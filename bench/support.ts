import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { get } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import postgres from 'postgres'
import { openDatabase, type Sql } from '../src/db/client.ts'
import { createLogger } from '../src/lib/logger.ts'
import { migrate } from '../src/migrations/run.ts'
import { processCpuUs } from './processes.ts'

export const log = createLogger({ level: 'warn', pretty: false })
const ROOT = join(import.meta.dirname, '..')
const SERVER = process.env.BENCH_DATABASE_URL ?? process.env.TEST_DATABASE_URL

/** `--quick` tells whether all parts still work: a tenth of the numbers, one round. Its figures are worth nothing. */
export const isQuick = process.argv.includes('--quick')
export const ROUNDS = isQuick ? 1 : 5

/** A count for this run. */
export function scaled(count: number): number {
  return isQuick ? Math.ceil(count / 10) : count
}

export const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

export function median(values: number[]): number {
  return quantile(values, 0.5)
}

export function quantile(values: number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))] ?? Number.NaN
}

/** Calls a second, with `callers` of them under way. */
export async function rate(total: number, callers: number, call: (index: number) => Promise<unknown>): Promise<number> {
  let next = 0
  const startedAt = performance.now()
  await Promise.all(
    Array.from({ length: callers }, async () => {
      while (next < total) await call(next++)
    }),
  )
  return (total / (performance.now() - startedAt)) * 1000
}

/** Runs ours and the peer in turn and returns the medians of both, so that a drifting machine moves both. */
export function inTurn(rounds: number, ours: () => Promise<number>, peer: () => Promise<number>) {
  return inRounds(rounds, { ours, peer })
}

/** The same for any number of contestants. */
export async function inRounds<K extends string>(
  rounds: number,
  contestants: Record<K, () => Promise<number>>,
): Promise<Record<K, number>> {
  const found = new Map<string, number[]>()
  for (let round = 0; round < rounds; round++) {
    for (const [name, measure] of Object.entries<() => Promise<number>>(contestants)) {
      found.set(name, [...(found.get(name) ?? []), await measure()])
    }
  }
  return Object.fromEntries([...found].map(([name, values]) => [name, median(values)])) as Record<K, number>
}

/** A database of its own on the server that `BENCH_DATABASE_URL` or `TEST_DATABASE_URL` names, dropped at the end. */
export async function withDatabase<T>(work: (url: string) => Promise<T>, { schema = true } = {}): Promise<T> {
  const admin = connectToServer()
  const name = `bench_${process.pid}_${Math.random().toString(36).slice(2, 8)}`
  await admin.unsafe(`create database ${name}`)
  const url = new URL(SERVER!)
  url.pathname = `/${name}`
  try {
    if (schema) {
      const database = await openDatabase({ url: url.href, poolMax: 2, dataDir: null, log })
      await migrate({ database, log }, { dir: join(ROOT, 'src/migrations') })
      await database.close()
    }
    return await work(url.href)
  } finally {
    await admin.unsafe(`drop database ${name} with (force)`)
    await admin.end()
  }
}

/** What runs the databases of the measurements. */
export async function postgresVersion(): Promise<string> {
  const admin = connectToServer()
  const [row] = await admin<{ version: string }[]>`select current_setting('server_version') as version`
  await admin.end()
  return row!.version
}

function connectToServer() {
  if (!SERVER) throw new Error('Set BENCH_DATABASE_URL (or TEST_DATABASE_URL) to a Postgres with pgvector')
  return postgres(SERVER, { max: 1, onnotice: () => {} })
}

export interface BenchGateway {
  url: string
  pid: number
  process: ChildProcess
  /** Milliseconds from spawn to ready. */
  startMs: number
  /** Also for one that has exited. */
  stop(): Promise<void>
}

/** The same for all gateways of a bench, which share a database and so its sealed canary. */
const SECRETS = { JWT_SECRET: 'bench-'.repeat(8), BETTER_AUTH_SECRET: 'auth-'.repeat(8) }

/** Gateways that run. A measurement that failed stops none of its own. */
const running = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL')
})

/** Starts the built gateway as a process, with `nodeArgs` for its Node, and waits until it is ready. */
export async function startGateway(
  env: Record<string, string>,
  { nodeArgs = [], node = process.execPath }: { nodeArgs?: string[]; node?: string } = {},
): Promise<BenchGateway> {
  const dir = env.LOBU_DATA_DIR ?? (await mkdtemp(join(tmpdir(), 'lobu-bench-')))
  const startedAt = performance.now()
  const child = spawn(node, [...nodeArgs, join(ROOT, 'dist/main.js'), 'serve'], {
    env: {
      PATH: process.env.PATH ?? '',
      PORT: '0',
      LOBU_DATA_DIR: dir,
      LOG_LEVEL: 'info',
      LOG_PRETTY: '0',
      ...SECRETS,
      ...env,
    },
    stdio: nodeArgs.length > 0 ? ['ignore', 'pipe', 'inherit', 'ipc'] : ['ignore', 'pipe', 'inherit'],
  })
  running.add(child)
  child.once('exit', () => running.delete(child))
  const { url, key } = await readStart(child, env.LOBU_KEY === undefined)
  const startMs = performance.now() - startedAt
  if (key) keys.set(url, key)
  return {
    url,
    pid: child.pid!,
    process: child,
    startMs,
    async stop() {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill('SIGTERM')
        await once(child, 'exit')
      }
      if (!env.LOBU_DATA_DIR) await rm(dir, { recursive: true, force: true })
    },
  }
}

const keys = new Map<string, string>()

/** The key that a gateway printed at its first start. */
export function keyOf(gateway: BenchGateway): string {
  return keys.get(gateway.url) ?? ''
}

async function readStart(child: ChildProcess, wantsKey: boolean): Promise<{ url: string; key: string }> {
  let text = ''
  child.stdout!.on('data', (chunk) => {
    text = (text + chunk).slice(-20_000)
  })
  for (;;) {
    await Promise.race([once(child.stdout!, 'data'), once(child, 'exit')])
    if (child.exitCode !== null) throw new Error(`the gateway ended:\n${text}`)
    const url = /"url":"([^"]+)"/.exec(text)?.[1]
    const key = /(lobu_[\w-]{20,})/.exec(text)?.[1] ?? ''
    if (url && (key || !wantsKey)) return { url, key }
  }
}

/** Microseconds of CPU that the server processes of this database have used so far; NaN when they are not on this machine. */
export async function postgresCpuUs(sql: Sql): Promise<number> {
  const rows = await sql<{ pid: number }[]>`select pid from pg_stat_activity where datname = current_database()`
  return rows.reduce((sum, { pid }) => sum + processCpuUs(pid), 0)
}

/** A JSON call that must succeed. */
export async function call<T>(url: string, key: string, body?: unknown, method = 'POST'): Promise<T> {
  const res = await fetch(url, {
    method,
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    ...(method === 'GET' ? {} : { body: JSON.stringify(body ?? {}) }),
  })
  if (!res.ok) throw new Error(`${method} ${url}: ${res.status} ${await res.text()}`)
  return (await res.json()) as T
}

/** Opens an event stream and calls back for every frame. Resolves when it is connected, with how to leave it. */
export function follow(url: string, key: string, onFrame: (event: string, data: string) => void): Promise<() => void> {
  return new Promise((resolve, reject) => {
    const headers = key === '' ? {} : { authorization: `Bearer ${key}` }
    const req = get(url, { headers, agent: false }, (res) => {
      if (res.statusCode !== 200) return reject(new Error(`GET ${url}: ${res.statusCode}`))
      let rest = ''
      res.setEncoding('utf8')
      res.on('error', () => {})
      res.on('data', (chunk: string) => {
        rest += chunk
        for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n')) {
          const frame = rest.slice(0, end)
          rest = rest.slice(end + 2)
          onFrame(/^event: (.*)$/m.exec(frame)?.[1] ?? '', /^data: (.*)$/m.exec(frame)?.[1] ?? '')
        }
      })
      resolve(() => req.destroy())
    })
    req.on('error', reject)
  })
}

/** Milliseconds by a clock that all processes of this machine share. */
export function sharedNow(): number {
  return Number(process.hrtime.bigint()) / 1e6
}
