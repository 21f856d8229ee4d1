/**
 * The built gateway as a process, on an external Postgres, with the demo model:
 * POST to first output for a worker that is running, one that waits warm, and one that must be started; and memory.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { builtCacheDir, createProcessLauncher } from '../src/workers/launcher.ts'
import { createWorkerPool } from '../src/workers/pool.ts'
import {
  type BenchGateway,
  call,
  follow,
  keyOf,
  log,
  median,
  type Row,
  residentMb,
  startGateway,
  withDatabase,
} from './support.ts'

const SAMPLES = 15

export function benchTurns(): Promise<Row[]> {
  return withDatabase(async (url) => {
    const warm = await startGateway({ DATABASE_URL: url, WORKERS_WARM: '1' })
    const key = keyOf(warm)
    const atRest = residentMb(warm.pid)
    const running = await timeTurns(warm, key, { sameConversation: true })
    const adopted = await timeTurns(warm, key, { sameConversation: false })
    const workerMb = Math.max(...childrenOf(warm.pid).map(residentMb))
    await warm.stop()
    const cold = await startGateway({ DATABASE_URL: url, WORKERS_WARM: '0', LOBU_KEY: key })
    const started = await timeTurns(cold, key, { sameConversation: false })
    await cold.stop()
    return [
      { name: 'POST to first output, running worker', ours: median(running), unit: 'ms', goal: '≤ 50 ms' },
      { name: 'POST to first output, warm worker adopted', ours: median(adopted), unit: 'ms', goal: '≤ 50 ms' },
      { name: 'POST to first output, cold worker', ours: median(started), unit: 'ms', goal: '≤ 600 ms' },
      { name: 'gateway at rest, external Postgres', ours: atRest, unit: 'MB', goal: '≤ 130 MB' },
      { name: 'worker after a turn', ours: workerMb, unit: 'MB' },
      ...(await timeSpawns()),
    ]
  })
}

interface Opened {
  agentId: string
}

async function timeTurns(gateway: BenchGateway, key: string, { sameConversation }: { sameConversation: boolean }) {
  const times: number[] = []
  let id = ''
  for (let sample = 0; sample <= SAMPLES; sample++) {
    if (sample === 0 || !sameConversation) {
      id = (await call<Opened>(`${gateway.url}/api/v1/agents`, key, { forceNew: true })).agentId
    }
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
    // The first turn only warms up what every later one uses.
    if (sample > 0) times.push(ms)
    await waitForWarm(gateway)
  }
  return times
}

/** A new warm worker is started after each adoption; the next sample must find it ready, or it measures a cold one. */
async function waitForWarm(gateway: BenchGateway) {
  const deadline = performance.now() + 5_000
  while (performance.now() < deadline) {
    const { workers } = await call<{ workers: { warm: number; busy: number } }>(
      `${gateway.url}/health/ready`,
      '',
      undefined,
      'GET',
    )
    if (workers.warm > 0 && workers.busy === 0) return
    await new Promise((resolve) => setTimeout(resolve, 600))
    if (workers.warm === 0 && workers.busy === 0 && performance.now() > deadline - 3_500) return
  }
}

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

/** One worker after the other from spawn to ready, by the pool itself. */
async function timeSpawns(): Promise<Row[]> {
  const entry = join(import.meta.dirname, '../dist/worker/main.js')
  const times: number[] = []
  const sizes: number[] = []
  for (let sample = 0; sample <= SAMPLES; sample++) {
    const launcher = createProcessLauncher(
      { log },
      { entry, args: ['demo'], memoryMb: 512, cacheDirs: [builtCacheDir(entry)] },
    )
    await launcher.start()
    const requests = { saveStep: async () => 'saved' as const, takeSteer: async () => [], model: () => {} }
    const options = { max: 2, busyMax: 2, warm: 1, idleMs: 60_000, startMs: 20_000, silenceMs: 45_000, memoryMb: 512 }
    const pool = createWorkerPool({ launcher, requests, log }, options)
    const startedAt = performance.now()
    await pool.start()
    while (pool.snapshot().warm === 0) await new Promise((resolve) => setImmediate(resolve))
    times.push(performance.now() - startedAt)
    sizes.push(Math.max(...childrenOf(process.pid).map(residentMb)))
    await pool.stop()
    await launcher.stop()
  }
  return [
    { name: 'worker: spawn to ready', ours: median(times.slice(1)), unit: 'ms', goal: '≤ 100 ms' },
    { name: 'worker: memory when ready', ours: median(sizes), unit: 'MB', goal: '≤ 60 MB' },
  ]
}
