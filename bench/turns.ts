/**
 * The built gateway as a process, on an external Postgres, with the demo model: POST to first output for a worker that
 * is running, one that waits warm, and one that must be started, in turn, so that a drifting machine moves all three.
 */
import { copyFile, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { childrenOf, privateMb, proportionalMb, residentMb, treeOf } from './processes.ts'
import {
  type BenchGateway,
  call,
  follow,
  isQuick,
  keyOf,
  median,
  pause,
  startGateway,
  withDatabase,
} from './support.ts'
import type { Row } from './table.ts'

const SAMPLES = isQuick ? 2 : 11
/** Readiness may be half a second old, and a spare is ready before its warm-up rounds are over. */
const REST_MS = 600

export function benchTurns(): Promise<Row[]> {
  return withDatabase(async (url) => {
    const warm = await startGateway({ DATABASE_URL: url, WORKERS_WARM: '1' })
    const key = keyOf(warm)
    const rest = await measureRest({ DATABASE_URL: url, WORKERS_WARM: '0', LOBU_KEY: key })
    const cold = await startGateway({ DATABASE_URL: url, WORKERS_WARM: '0', LOBU_KEY: key })
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
      {
        ...{ name: 'gateway at rest with its spawner, external Postgres', ours: rest.together, unit: 'MB' },
        ...{
          goal: '≤ 130 MB',
          note: 'sum of their proportional set sizes; no worker, and no other process shares their program',
        },
      },
      { name: 'of that, resident: the gateway', ours: rest.gateway, unit: 'MB' },
      { name: 'of that, resident: the spawner', ours: rest.spawner, unit: 'MB' },
      { name: 'worker after a turn', ours: used.residentMb, unit: 'MB' },
      { name: 'the same, not shared with other workers', ours: used.privateMb, unit: 'MB' },
    ]
  })
}

/**
 * What a gateway and the spawner of its workers hold in memory when nothing is asked of them. They run a copy of Node: of the
 * file itself they would share, and so count less of, what all other Nodes of the machine have mapped as well.
 */
async function measureRest(env: Record<string, string>) {
  const dir = await mkdtemp(join(tmpdir(), 'lobu-bench-node-'))
  const node = join(dir, 'node')
  await copyFile(process.execPath, node)
  const gateway = await startGateway(env, { node })
  await pause(REST_MS)
  const [spawner] = childrenOf(gateway.pid)
  if (spawner === undefined) throw new Error('the gateway has no spawner')
  const found = {
    together: treeOf(gateway.pid).reduce((sum, pid) => sum + proportionalMb(pid), 0),
    gateway: residentMb(gateway.pid),
    spawner: residentMb(spawner),
  }
  await gateway.stop()
  await rm(dir, { recursive: true })
  return found
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
