/**
 * How soon work is picked up (`pick-up.ts`), what it costs to wake who may take it, and what more replicas cost. Messages are
 * accepted by the statement of the product; the replicas are its runner with its doorbells, and workers that end each turn at
 * once.
 */
import { openDatabase } from '../src/db/client.ts'
import { createNotifier } from '../src/db/notify.ts'
import type { Signals } from '../src/domain/signals.ts'
import { GAPS_MS } from '../src/doorbells.ts'
import { benchPickUp } from './pick-up.ts'
import { startReplica } from './replica.ts'
import { createScene, createWriter, SILENT } from './scene.ts'
import { inRounds, isQuick, log, pause, postgresCpuUs, ROUNDS, rate, scaled, withDatabase } from './support.ts'
import type { Row } from './table.ts'

const JOBS = scaled(2_000)
const WRITTEN = scaled(4_000)
const WRITERS = 32
const REPLICAS = 8

export async function benchWakes(): Promise<Row[]> {
  return [...(await benchPickUp()), ...(await benchHerd()), ...(await benchWriters())]
}

/** The same messages, in conversations of their own, taken and ended by one replica and by eight. */
async function benchHerd(): Promise<Row[]> {
  const found = await inRounds(ROUNDS, { one: () => cpuPerJob(1), eight: () => cpuPerJob(REPLICAS) })
  return [
    {
      ...{ name: `Postgres CPU per turn, ${REPLICAS} replicas`, ours: found.eight / 1000, unit: 'ms' },
      peer: { name: 'one replica', value: found.one / 1000 },
      ...{ goal: '≤ 1.5× (≤ 1.2×)', note: 'accept, wake, claim, read and end, without a worker' },
    },
  ]
}

async function cpuPerJob(replicas: number): Promise<number> {
  return withDatabase(async (url) => {
    const scene = await createScene(url, { poolMax: 16 })
    const names = await scene.conversations(JOBS)
    let left = JOBS
    const finished = Promise.withResolvers<void>()
    const started = await Promise.all(
      Array.from({ length: replicas }, (_, n) =>
        startReplica(url, { name: `r${n}`, onTurn: () => --left === 0 && finished.resolve() }),
      ),
    )
    const notifier = createNotifier({ sql: scene.sql, log }, { gapsMs: GAPS_MS })
    const accept = createWriter(scene, { ...SILENT, runReady: () => notifier.ring('lobu_runs', '') })
    await pause(200)
    const before = await postgresCpuUs(scene.sql)
    await rate(JOBS, 16, (index) => accept(names[index]!))
    await finished.promise
    const used = (await postgresCpuUs(scene.sql)) - before
    for (const replica of started) await replica.stop()
    await notifier.stop()
    await scene.close()
    return used / JOBS
  })
}

/** Messages a second from 32 connections, with and without a ring for the other replicas after each commit. */
async function benchWriters(): Promise<Row[]> {
  return withDatabase(async (url) => {
    const scene = await createScene(url, { poolMax: WRITERS })
    const notifier = createNotifier({ sql: scene.sql, log }, { gapsMs: GAPS_MS })
    const listener = await openDatabase({ url, poolMax: 2, dataDir: null, log })
    let heard = 0
    await listener.listen(
      'lobu_runs',
      () => heard++,
      () => {},
    )
    const write = (signals: Signals) => async () => {
      const accept = createWriter(scene, signals)
      const names = await scene.conversations(WRITTEN)
      return rate(WRITTEN, WRITERS, (index) => accept(names[index]!))
    }
    const found = await inRounds(ROUNDS, {
      wake: write({ ...SILENT, runReady: () => notifier.ring('lobu_runs', '') }),
      silent: write(SILENT),
    })
    await notifier.stop()
    await listener.close()
    await scene.close()
    const rounds = isQuick ? 1 : ROUNDS
    return [
      {
        ...{ name: `${WRITERS} writers that wake other replicas`, ours: found.wake, unit: '/s' },
        peer: { name: 'the same, silent', value: found.silent },
        ...{ goal: '≥ 0.8× (≥ 3×)', note: `${Math.round(WRITTEN / (heard / rounds))} messages for each notification` },
      },
    ]
  })
}
