/**
 * The built gateway as a process, on an external Postgres, with the demo model: POST to first output for a worker that
 * is running, one that waits warm, and one that must be started, in turn, so that a drifting machine moves all three.
 * Then single workers from launch to ready, in turn with an empty script that is launched in the very same way.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createLogger } from '../src/lib/logger.ts'
import { builtCacheDir, createProcessLauncher, type Launcher } from '../src/workers/launcher.ts'
import { createWorkerProcess } from '../src/workers/process.ts'
import {
  type BenchGateway,
  call,
  follow,
  keyOf,
  log,
  median,
  privateMb,
  type Row,
  residentMb,
  startGateway,
  withDatabase,
} from './support.ts'

const SAMPLES = 15
/** Readiness may be half a second old, and a spare is ready before its warm-up rounds are over. */
const REST_MS = 600

export function benchTurns(): Promise<Row[]> {
  return withDatabase(async (url) => {
    const warm = await startGateway({ DATABASE_URL: url, WORKERS_WARM: '1' })
    const key = keyOf(warm)
    const cold = await startGateway({ DATABASE_URL: url, WORKERS_WARM: '0', LOBU_KEY: key })
    const atRest = residentMb(warm.pid)
    const running: number[] = []
    const adopted: number[] = []
    const started: number[] = []
    const busy = await openConversation(warm, key)
    for (let sample = 0; sample <= SAMPLES; sample++) {
      await waitForSpare(warm)
      running.push(await timeTurn(warm, key, busy))
      await waitForSpare(warm)
      adopted.push(await timeTurn(warm, key, await openConversation(warm, key)))
      started.push(await timeTurn(cold, key, await openConversation(cold, key)))
    }
    const workers = childrenOf(warm.pid)
    // Their median: most have had one turn; the guard is among them and smaller.
    const used = { residentMb: median(workers.map(residentMb)), privateMb: median(workers.map(privateMb)) }
    await warm.stop()
    await cold.stop()
    const floor = { name: 'running worker', value: median(running.slice(1)) }
    return [
      { name: 'POST to first output, running worker', ours: floor.value, unit: 'ms', goal: '≤ 50 ms' },
      row('POST to first output, warm worker adopted', adopted, { peer: floor, goal: '≤ 50 ms' }),
      row('POST to first output, cold worker', started, { peer: floor, goal: '≤ 600 ms' }),
      { name: 'gateway at rest, external Postgres', ours: atRest, unit: 'MB', goal: '≤ 130 MB' },
      { name: 'worker after a turn', ours: used.residentMb, unit: 'MB' },
      { name: 'the same, not shared with other workers', ours: used.privateMb, unit: 'MB' },
      ...(await benchSpawns()),
    ]
  })
}

/** Without the first sample, which only warms up what every later one uses. */
function row(name: string, times: number[], rest: Pick<Row, 'peer' | 'goal'>): Row {
  return { name, ours: median(times.slice(1)), unit: 'ms', ...rest }
}

async function openConversation(gateway: BenchGateway, key: string): Promise<string> {
  return (await call<{ agentId: string }>(`${gateway.url}/api/v1/agents`, key, { forceNew: true })).agentId
}

async function timeTurn(gateway: BenchGateway, key: string, id: string): Promise<number> {
  const first = Promise.withResolvers<number>()
  const ended = Promise.withResolvers<void>()
  const close = await follow(`${gateway.url}/api/v1/agents/${id}/events`, key, (event) => {
    if (event === 'output') first.resolve(performance.now())
    if (event === 'complete') ended.resolve()
  })
  const startedAt = performance.now()
  await call(`${gateway.url}/api/v1/agents/${id}/messages`, key, { content: '/words 3' })
  const ms = (await first.promise) - startedAt
  await ended.promise
  close()
  return ms
}

/** A new spare is started after each adoption; a sample that found none would measure a cold start. */
async function waitForSpare(gateway: BenchGateway) {
  await pause(REST_MS)
  const deadline = performance.now() + 10_000
  for (;;) {
    const { workers } = await call<Health>(`${gateway.url}/health/ready`, '', undefined, 'GET')
    if (workers.warm > 0 && workers.busy === 0) break
    if (performance.now() > deadline) throw new Error('the gateway has no spare worker')
    await pause(50)
  }
  await pause(REST_MS)
}

interface Health {
  workers: { warm: number; busy: number }
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

function childrenOf(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((child) => {
      try {
        return Number(readFileSync(`/proc/${child}/stat`, 'utf8').split(') ')[1]!.split(' ')[1]) === pid
      } catch {
        return false
      }
    })
}

interface Spawned {
  ms: number
  residentMb: number
  privateMb: number
}

/** From `launch()` to the word of a worker that it is ready, beside a script that says one byte and has nothing to load. */
async function benchSpawns(): Promise<Row[]> {
  const dir = mkdtempSync(join(tmpdir(), 'lobu-bench-'))
  const emptyEntry = join(dir, 'empty.js')
  writeFileSync(emptyEntry, "require('node:fs').writeSync(3, '.'); setInterval(() => {}, 1e6)")
  const builtEntry = join(import.meta.dirname, '../dist/worker/main.js')
  const ours = await openLauncher(builtEntry, [builtCacheDir(builtEntry)])
  const empty = await openLauncher(emptyEntry, [])
  const workers: Spawned[] = []
  const scripts: Spawned[] = []
  for (let sample = 0; sample <= SAMPLES; sample++) {
    scripts.push(await spawnEmpty(empty))
    workers.push(await spawnWorker(ours))
  }
  await Promise.all([ours.stop(), empty.stop()])
  rmSync(dir, { recursive: true })
  const compare = (name: string, field: keyof Spawned, rest: { unit: string; goal: string }): Row => ({
    name,
    ours: median(workers.slice(1).map((one) => one[field])),
    peer: { name: 'an empty script', value: median(scripts.slice(1).map((one) => one[field])) },
    ...rest,
  })
  return [
    compare('worker: spawn to ready', 'ms', { unit: 'ms', goal: '≤ 100 ms' }),
    compare('worker: memory when ready', 'residentMb', { unit: 'MB', goal: '≤ 60 MB' }),
    compare('the same, not shared with other workers', 'privateMb', { unit: 'MB', goal: '≤ 20 MB' }),
  ]
}

async function openLauncher(entry: string, cacheDirs: string[]): Promise<Launcher> {
  // An empty script has nothing to keep compiled, and need not be warned about.
  const log = createLogger({ level: 'error', pretty: false })
  const launcher = createProcessLauncher({ log }, { entry, args: ['demo'], memoryMb: 512, cacheDirs })
  await launcher.start()
  return launcher
}

async function spawnWorker(launcher: Launcher): Promise<Spawned> {
  const requests = { saveStep: async () => 'saved' as const, takeSteer: async () => [], model: () => {} }
  const startedAt = performance.now()
  const launched = launcher.launch()
  const worker = createWorkerProcess({ launched, requests, log }, { startMs: 20_000, silenceMs: 45_000 })
  await worker.ready
  const spawned = measure(startedAt, launched.pid!)
  await worker.stop()
  return spawned
}

async function spawnEmpty(launcher: Launcher): Promise<Spawned> {
  const startedAt = performance.now()
  const launched = launcher.launch()
  await new Promise((resolve) => launched.socket!.once('data', resolve))
  const spawned = measure(startedAt, launched.pid!)
  launched.signal('SIGKILL')
  await launched.exited
  return spawned
}

function measure(startedAt: number, pid: number): Spawned {
  return { ms: performance.now() - startedAt, residentMb: residentMb(pid), privateMb: privateMb(pid) }
}
