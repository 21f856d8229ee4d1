/**
 * How many replies one replica streams at once, each 40 deltas a second, until a delta needs more than a quarter of a second
 * to its client: from the call that a worker's words end in, over queue, log and tail, to the bytes at one client each. The
 * replica has a process; the clients share this one, and both share the machine with Postgres.
 */
import { get } from 'node:http'
import { ask, forkReplica, stopReplica } from './delivery.ts'
import { createScene } from './scene.ts'
import { isQuick, median, pause, postgresCpuUs, quantile, sharedNow, withDatabase } from './support.ts'
import type { Row } from './table.ts'

const DELTAS_PER_SECOND = 40
const STEPS = isQuick ? [50, 200] : [50, 100, 200, 300, 400, 600, 800, 1_200, 1_600]
const SECONDS = isQuick ? 1 : 3
const DELAY_MS_MAX = 250

interface Step {
  replies: number
  p50: number
  p99: number
  replicaCpuUs: number
  postgresCpuUs: number
}

export function benchStreaming(): Promise<Row[]> {
  return withDatabase(async (url) => {
    const scene = await createScene(url)
    const { replica, port } = await forkReplica(url)
    const steps: Step[] = []
    for (const replies of STEPS) {
      const runs = await scene.held(replies)
      const delays: number[] = []
      const urls = runs.map((run) => `http://127.0.0.1:${port}/${run.organizationId}/${run.conversationId}`)
      const closers = await Promise.all(urls.map((one) => listen(one, delays)))
      const before = await postgresCpuUs(scene.sql)
      const { cpuUs } = await ask(replica, {
        kind: 'stream',
        runs,
        deltasPerSecond: DELTAS_PER_SECOND,
        seconds: SECONDS,
      })
      const used = (await postgresCpuUs(scene.sql)) - before
      await pause(500)
      for (const close of closers) close()
      const said = replies * DELTAS_PER_SECOND * SECONDS
      // What never came is late as well.
      while (delays.length < said * 0.99) delays.push(Number.POSITIVE_INFINITY)
      steps.push({
        ...{ replies, p50: median(delays), p99: quantile(delays, 0.99) },
        ...{ replicaCpuUs: cpuUs! / said, postgresCpuUs: used / said },
      })
      if (steps.at(-1)!.p99 > DELAY_MS_MAX) break
    }
    await stopReplica(replica)
    await scene.close()
    return report(steps)
  })
}

function report(steps: Step[]): Row[] {
  const held = steps.filter((step) => step.p99 <= DELAY_MS_MAX)
  const most = held.at(-1)
  const at200 = steps.find((step) => step.replies === 200)
  const all = steps.map((step) => `${step.replies}: ${Math.round(step.p99)} ms`).join(', ')
  const rows: Row[] = [
    {
      ...{ name: 'replies at once, 40 deltas/s each, p99 delay ≤ 250 ms', ours: most?.replies ?? 0, unit: 'replies' },
      ...{ goal: '≥ 200', note: `p99 by number of replies: ${all}; clients, replica and Postgres share the cores` },
    },
  ]
  if (!at200) return rows
  return [
    ...rows,
    { name: 'delay of a delta at 200 replies (8,000 deltas/s), p50', ours: at200.p50, unit: 'ms' },
    {
      name: "CPU of the replica for each delta there, its client's stream included",
      ours: at200.replicaCpuUs,
      unit: 'µs',
    },
    { name: 'CPU of Postgres for each delta there', ours: at200.postgresCpuUs, unit: 'µs' },
  ]
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
