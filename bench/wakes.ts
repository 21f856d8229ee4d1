/**
 * How soon work is picked up, what it costs to wake who may take it, and what more replicas cost. Messages are accepted by
 * the statement of the product; the replicas are its runner with its doorbells, and workers that end each turn at once.
 */
import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import { openDatabase } from '../src/db/client.ts'
import { createNotifier } from '../src/db/notify.ts'
import { acceptMessage } from '../src/domain/messages/accept.ts'
import type { Signals } from '../src/domain/signals.ts'
import { GAPS_MS } from '../src/doorbells.ts'
import { startReplica } from './replica.ts'
import { createScene, PAYLOAD, type Scene, SILENT } from './scene.ts'
import {
  inRounds,
  isQuick,
  log,
  median,
  pause,
  postgresCpuUs,
  quantile,
  ROUNDS,
  rate,
  scaled,
  withDatabase,
} from './support.ts'
import type { Row } from './table.ts'

const PICK_UPS = scaled(150)
const JOBS = scaled(2_000)
const WRITTEN = scaled(4_000)
const WRITERS = 32
const REPLICAS = 8
const OPTIONS = {
  ...{ replica: 'writer', leaseMs: 60_000, depthMax: 1e6, organizationMax: 1e6, workerIdleMs: 1, preferredMs: 1 },
  workerHere: false,
}

export async function benchWakes(): Promise<Row[]> {
  return [...(await benchPickUp()), ...(await benchHerd()), ...(await benchWriters())]
}

function createWriter({ sql, organizationId }: Scene, signals: Signals) {
  let serial = 0
  return (conversationId: string, claimHere = false) =>
    acceptMessage(
      { sql, signals },
      {
        ...{ organizationId, conversationId, messageId: `m${++serial}` },
        content: { role: 'user', content: PAYLOAD.text },
        ...{ text: PAYLOAD.text, bodyHash: 'hash', fileIds: [], onBusy: 'enqueue' as const },
        ...{ webhookUrl: null, traceparent: null },
      },
      { ...OPTIONS, claimHere },
    )
}

/** From the call that enqueues to the moment when the handler, or the worker, would be given the work; one at a time. */
async function benchPickUp(): Promise<Row[]> {
  return withDatabase(async (url) => {
    const scene = await createScene(url, { poolMax: 4 })
    const names = await scene.conversations(PICK_UPS * 2 + 20)
    await scene.sql`create table bench_floor (id bigint generated always as identity primary key, payload jsonb not null)`
    let picked = () => {}
    const replica = await startReplica(url, { name: 'b', onTurn: () => picked() })
    const notifier = createNotifier({ sql: scene.sql, log }, { gapsMs: GAPS_MS })
    const accept = createWriter(scene, { ...SILENT, runReady: () => notifier.ring('lobu_runs', '') })
    const graphile = await startGraphile(url, () => picked())
    const elsewhere = async (enqueue: () => Promise<unknown>) => {
      const startedAt = performance.now()
      const handled = new Promise<void>((resolve) => {
        picked = resolve
      })
      await enqueue()
      await handled
      return performance.now() - startedAt
    }
    const times = { ours: [] as number[], graphile: [] as number[], local: [] as number[], floor: [] as number[] }
    for (let n = 0; n < PICK_UPS + 10; n++) {
      await pause(5 + Math.random() * 10)
      times.ours.push(await elsewhere(() => accept(names.pop()!)))
      await pause(5 + Math.random() * 10)
      times.graphile.push(await elsewhere(graphile.add))
      await pause(5)
      times.local.push(await timed(() => accept(names.pop()!, true)))
      await pause(5)
      times.floor.push(
        await timed(() => scene.sql`insert into bench_floor (payload) values (${scene.sql.json(PAYLOAD)})`),
      )
    }
    for (const list of Object.values(times)) list.splice(0, 10)
    await graphile.stop()
    await replica.stop()
    await notifier.stop()
    await scene.close()
    const peer = (p: number) => ({ name: 'graphile-worker', value: quantile(times.graphile, p) })
    const whole = 'to the worker, which includes the read of the turn; the peer to its handler'
    return [
      {
        ...{
          name: 'pick-up by another replica at low load, p50',
          ours: median(times.ours),
          peer: peer(0.5),
          unit: 'ms',
        },
        ...{ goal: '≤ 0.8× (≤ 0.6×; ≤ 2.5 ms)', note: whole },
      },
      { name: 'the same, p99', ours: quantile(times.ours, 0.99), peer: peer(0.99), unit: 'ms', goal: '≤ 12 ms' },
      {
        ...{ name: 'local fast path: accepted and claimed, p50', ours: median(times.local), unit: 'ms' },
        peer: { name: 'insert of one row and commit', value: median(times.floor) },
        ...{
          goal: '≤ 1.3× (≤ 1.1×)',
          note: 'ours: message, run, conversation, seven indexes; the floor: one row, one index',
        },
      },
    ]
  })
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now()
  await work()
  return performance.now() - startedAt
}

async function startGraphile(url: string, onJob: () => void) {
  const logger = new Logger(() => () => {})
  const preset = { worker: { connectionString: url, concurrentJobs: 8, maxPoolSize: 10, logger } }
  const utils = await makeWorkerUtils({ preset })
  await utils.migrate()
  const runner = await run({ preset, noHandleSignals: true, taskList: { pick: async () => onJob() } })
  return {
    add: () => utils.addJob('pick', PAYLOAD),
    async stop() {
      await runner.stop()
      await utils.release()
    },
  }
}

/** The same messages, in conversations of their own, taken and ended by one replica and by eight. */
async function benchHerd(): Promise<Row[]> {
  const found = await inRounds(Math.min(3, ROUNDS), { one: () => cpuPerJob(1), eight: () => cpuPerJob(REPLICAS) })
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
