/**
 * How many replies one replica streams at once, each 40 deltas a second, until a delta needs more than a quarter of a second
 * to its client: from the call that a worker's words end in, over queue, log and tail, to the bytes at one client each. The
 * replica has a process; the clients share this one, and both share the machine with Postgres.
 */
import { get } from 'node:http'
import { ask, forkReplica, type Receiver, stopReplica } from './delivery.ts'
import { createScene, type Scene } from './scene.ts'
import { isQuick, median, pause, postgresCpuUs, quantile, ROUNDS, sharedNow, withDatabase } from './support.ts'
import type { Row } from './table.ts'

const DELTAS_PER_SECOND = 40
const STEPS = isQuick ? [50, 200] : [100, 200, 300, 400, 500, 600, 800, 1_200, 1_600]
const SECONDS = isQuick ? 1 : 3
const DELAY_MS_MAX = 250
/** Its costs stand in docs/scaling.md. */
const TYPICAL = 200
/** Steps that are taken in every round: the first that is too slow and those before it. */
const NEAR = 3

interface Sample {
  p50: number
  p99: number
  replicaCpuUs: number
  postgresCpuUs: number
}
/** By number of replies, in ascending order. */
type Samples = Map<number, Sample[]>

/**
 * First up the steps, until two in a row are too slow: one alone may be bad luck. Then the steps around the limit, and the
 * typical one, are taken again in turn, so that what counts is the median of rounds.
 */
export function benchStreaming(): Promise<Row[]> {
  return withDatabase(async (url) => {
    const scene = await createScene(url)
    const receiver = await forkReplica(url)
    const samples: Samples = new Map()
    let late = 0
    for (const replies of STEPS) {
      samples.set(replies, [await measure(scene, receiver, replies)])
      late = isHeld(samples, replies) ? 0 : late + 1
      if (late === 2) break
    }
    const upTo = late === 2 ? -1 : undefined
    const near = new Set([TYPICAL, ...[...samples.keys()].slice(0, upTo).slice(-NEAR)])
    for (let round = 1; round < ROUNDS; round++) {
      for (const replies of near) samples.get(replies)!.push(await measure(scene, receiver, replies))
    }
    await stopReplica(receiver.replica)
    await scene.close()
    return report(samples)
  })
}

async function measure(scene: Scene, { replica, port }: Receiver, replies: number): Promise<Sample> {
  const runs = await scene.held(replies)
  const delays: number[] = []
  const urls = runs.map((run) => `http://127.0.0.1:${port}/${run.organizationId}/${run.conversationId}`)
  const closers = await Promise.all(urls.map((one) => listen(one, delays)))
  const before = await postgresCpuUs(scene.sql)
  const { cpuUs } = await ask(replica, { kind: 'stream', runs, deltasPerSecond: DELTAS_PER_SECOND, seconds: SECONDS })
  const used = (await postgresCpuUs(scene.sql)) - before
  await pause(500)
  for (const close of closers) close()
  const said = replies * DELTAS_PER_SECOND * SECONDS
  // What never came is late as well.
  while (delays.length < said * 0.99) delays.push(Number.POSITIVE_INFINITY)
  return {
    ...{ p50: median(delays), p99: quantile(delays, 0.99) },
    ...{ replicaCpuUs: cpuUs! / said, postgresCpuUs: used / said },
  }
}

function middle(samples: Samples, replies: number, field: keyof Sample): number {
  return median(samples.get(replies)!.map((sample) => sample[field]))
}

function isHeld(samples: Samples, replies: number): boolean {
  return middle(samples, replies, 'p99') <= DELAY_MS_MAX
}

function report(samples: Samples): Row[] {
  const steps = [...samples.keys()]
  const firstLate = steps.findIndex((step) => !isHeld(samples, step))
  const most = firstLate < 0 ? steps.at(-1)! : (steps[firstLate - 1] ?? 0)
  return [
    {
      ...{ name: 'replies at once, 40 deltas/s each, p99 delay ≤ 250 ms', ours: most, unit: 'replies', goal: '≥ 200' },
      note: `p99 by number of replies: ${steps.map((step) => told(samples, step)).join(', ')}; clients, replica and Postgres share the cores`,
    },
    {
      ...{ name: `delay of a delta at ${TYPICAL} replies (8,000 deltas/s), p50`, unit: 'ms' },
      ours: middle(samples, TYPICAL, 'p50'),
    },
    {
      ...{ name: "CPU of the replica for each delta there, its client's stream included", unit: 'µs' },
      ours: middle(samples, TYPICAL, 'replicaCpuUs'),
    },
    { name: 'CPU of Postgres for each delta there', ours: middle(samples, TYPICAL, 'postgresCpuUs'), unit: 'µs' },
  ]
}

/** Where there were rounds, the median of them, the least and the most. */
function told(samples: Samples, replies: number): string {
  const all = samples.get(replies)!.map(({ p99 }) => p99)
  const ms = (value: number) => (Number.isFinite(value) ? Math.round(value) : '∞')
  const spread = all.length > 1 ? ` (${ms(Math.min(...all))} to ${ms(Math.max(...all))} in ${all.length} rounds)` : ''
  return `${replies}: ${ms(median(all))} ms${spread}`
}

/** Opens a stream and notes how old each delta is when its bytes are here. */
function listen(url: string, delays: number[]): Promise<() => void> {
  return new Promise((resolve, reject) => {
    const req = get(url, { agent: false }, (res) => {
      let rest = ''
      res.setEncoding('utf8')
      res.on('error', () => {})
      res.on('data', (chunk: string) => {
        const now = sharedNow()
        rest += chunk
        for (const [, at] of rest.matchAll(/@([\d.]+);/g)) delays.push(now - Number(at))
        rest = rest.slice(Math.max(rest.lastIndexOf(';') + 1, rest.length - 40))
      })
      resolve(() => req.destroy())
    })
    req.on('error', reject)
  })
}
