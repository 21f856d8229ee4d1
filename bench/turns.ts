/**
 * The built gateway as a process, on an external Postgres, with the demo model: POST to first output for a worker that
 * is running, one that waits warm, and one that must be started, in turn, so that a drifting machine moves all three.
 */
import { readdirSync, readFileSync } from 'node:fs'
import {
  type BenchGateway,
  call,
  follow,
  isQuick,
  keyOf,
  median,
  pause,
  privateMb,
  residentMb,
  startGateway,
  withDatabase,
} from './support.ts'
import type { Row } from './table.ts'

const SAMPLES = isQuick ? 2 : 15
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
    const workers = childrenOf(warm.pid).flatMap(childrenOf)
    // The spawner's children, and of them the median: most have had one turn; the guard is among them and smaller.
    const used = { residentMb: median(workers.map(residentMb)), privateMb: median(workers.map(privateMb)) }
    await warm.stop()
    await cold.stop()
    const floor = { name: 'running worker', value: median(running.slice(1)) }
    return [
      { name: 'POST to first output, running worker', ours: floor.value, unit: 'ms', goal: '≤ 40 ms' },
      row('POST to first output, warm worker adopted', adopted, { peer: floor, goal: '≤ 40 ms' }),
      row('POST to first output, cold worker', started, { peer: floor, goal: '≤ 400 ms' }),
      { name: 'gateway at rest, external Postgres', ours: atRest, unit: 'MB', goal: '≤ 130 MB' },
      { name: 'worker after a turn', ours: used.residentMb, unit: 'MB' },
      { name: 'the same, not shared with other workers', ours: used.privateMb, unit: 'MB' },
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
