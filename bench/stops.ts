/**
 * SIGTERM to a gateway with a turn that hangs and a worker that waits, a hundred times: whether it exits within its own time, and
 * whether anything that it had started is left.
 */
import { once } from 'node:events'
import { shutdownTimes } from '../src/config/shutdown.ts'
import { isAlive, treeOf } from './processes.ts'
import { createScene } from './scene.ts'
import { call, isQuick, median, pause, startGateway, withDatabase } from './support.ts'
import type { Row } from './table.ts'

const LANES = isQuick ? 2 : 4
const STOPS = isQuick ? 1 : 25
/** The turn hangs for longer, so each stop waits for it, gives it up and hands it over. */
const GRACE_SECONDS = 1
/** On top of its time, by the goal. */
const SPARE_MS = 1_000
const START_MS = 20_000

interface Stop {
  ms: number
  exitCode: number | null
  left: number
}

export async function benchStops(): Promise<Row[]> {
  const stops = (await Promise.all(Array.from({ length: LANES }, runLane))).flat()
  const { totalMs } = shutdownTimes({ waitMs: 0, graceMs: GRACE_SECONDS * 1000 })
  const good = stops.filter((one) => one.exitCode === 0 && one.left === 0 && one.ms <= totalMs + SPARE_MS)
  const times = stops.map(({ ms }) => ms)
  return [
    {
      ...{
        name: `SIGTERM with a hanging turn and an idle worker, good stops of ${stops.length}`,
        ours: good.length,
        unit: '',
      },
      ...{
        goal: `= ${stops.length}`,
        note: `exit 0 within ${(totalMs + SPARE_MS) / 1000} s, no process left; ${LANES} gateways at a time`,
      },
    },
    { name: 'from the signal to the exit, the slowest', ours: Math.max(...times), unit: 'ms', note: NOTE },
    { name: 'the same, p50', ours: median(times), unit: 'ms' },
  ]
}

const NOTE = `${GRACE_SECONDS} s of it are the grace of the turn`

/** One gateway after the other, on a database of their own. */
function runLane(): Promise<Stop[]> {
  return withDatabase(async (url) => {
    const scene = await createScene(url, { poolMax: 2 })
    const stops: Stop[] = []
    for (let n = 0; n < STOPS; n++) {
      stops.push(await stopOne(url, scene.key))
      // What was handed over is not for the next one.
      await scene.sql`delete from conversations`
    }
    await scene.close()
    return stops
  })
}

async function stopOne(url: string, key: string): Promise<Stop> {
  const env = { DATABASE_URL: url, LOBU_KEY: key, WORKERS_WARM: '1', SHUTDOWN_GRACE_SECONDS: String(GRACE_SECONDS) }
  const gateway = await startGateway(env)
  const { agentId } = await call<{ agentId: string }>(`${gateway.url}/api/v1/agents`, key, { forceNew: true })
  await call(`${gateway.url}/api/v1/agents/${agentId}/messages`, key, { content: '/hang' })
  await untilWorking(gateway.url)
  const tree = treeOf(gateway.pid)
  const startedAt = performance.now()
  gateway.process.kill('SIGTERM')
  await once(gateway.process, 'exit')
  const ms = performance.now() - startedAt
  const left = tree.filter(isAlive).length
  await gateway.stop()
  return { ms, exitCode: gateway.process.exitCode, left }
}

async function untilWorking(url: string) {
  const deadline = performance.now() + START_MS
  for (;;) {
    // It is 503 as long as the first worker starts.
    const { workers } = (await (await fetch(`${url}/health/ready`)).json()) as Health
    if (workers.busy === 1 && workers.warm === 1) return
    if (performance.now() > deadline) throw new Error('the gateway has no turn and no spare worker')
    await pause(50)
  }
}

interface Health {
  workers: { warm: number; busy: number }
}
