/**
 * From the call that enqueues to the moment when the handler, or the worker, would be given the work; one at a time, ours, the
 * peers and the floors in turn. The peers wake their workers by NOTIFY as well.
 */
import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import { PgBoss } from 'pg-boss'
import { createNotifier } from '../src/db/notify.ts'
import { GAPS_MS } from '../src/doorbells.ts'
import { startReplica } from './replica.ts'
import { createScene, createWriter, PAYLOAD, SILENT } from './scene.ts'
import { log, median, pause, quantile, scaled, withDatabase } from './support.ts'
import type { Row } from './table.ts'

const PICK_UPS = scaled(150)
const WARM_UPS = 10
/** The shortest that it allows; it must not matter, since a ring wakes it. */
const BOSS_POLL_SECONDS = 0.5

interface Peer {
  add(): Promise<unknown>
  stop(): Promise<void>
}

export async function benchPickUp(): Promise<Row[]> {
  return withDatabase(async (url) => {
    const scene = await createScene(url, { poolMax: 4 })
    const names = await scene.conversations((PICK_UPS + WARM_UPS) * 2)
    await scene.sql`create table bench_floor (id bigint generated always as identity primary key, payload jsonb not null)`
    let picked = () => {}
    const replica = await startReplica(url, { name: 'b', onTurn: () => picked() })
    const notifier = createNotifier({ sql: scene.sql, log }, { gapsMs: GAPS_MS })
    const accept = createWriter(scene, { ...SILENT, runReady: () => notifier.ring('lobu_runs', '') })
    const graphile = await startGraphile(url, () => picked())
    const boss = await startBoss(url, () => picked())
    const elsewhere = (enqueue: () => Promise<unknown>) =>
      timed(async () => {
        const handled = new Promise<void>((resolve) => {
          picked = resolve
        })
        await enqueue()
        await handled
      })
    const insert = () => scene.sql`insert into bench_floor (payload) values (${scene.sql.json(PAYLOAD)})`
    const ways = {
      ours: () => elsewhere(() => accept(names.pop()!)),
      graphile: () => elsewhere(graphile.add),
      boss: () => elsewhere(boss.add),
      local: () => timed(() => accept(names.pop()!, true)),
      floor: () => timed(insert),
    }
    const times = { ours: [], graphile: [], boss: [], local: [], floor: [] } as Record<keyof typeof ways, number[]>
    for (let n = 0; n < PICK_UPS + WARM_UPS; n++) {
      for (const name of Object.keys(ways) as (keyof typeof ways)[]) {
        await pause(5 + Math.random() * 10)
        const ms = await ways[name]()
        if (n >= WARM_UPS) times[name].push(ms)
      }
    }
    for (const one of [graphile, boss, replica, notifier]) await one.stop()
    await scene.close()
    return report(times)
  })
}

function report(times: Record<'ours' | 'graphile' | 'boss' | 'local' | 'floor', number[]>): Row[] {
  const graphile = (p: number) => ({ name: 'graphile-worker', value: quantile(times.graphile, p) })
  const boss = (p: number) => ({ name: 'pg-boss, with notify', value: quantile(times.boss, p) })
  const [ours, oursLate] = [median(times.ours), quantile(times.ours, 0.99)]
  return [
    {
      ...{ name: 'pick-up by another replica at low load, p50', ours, peer: graphile(0.5), unit: 'ms' },
      ...{
        goal: '≤ 0.8×; ≤ 2.5 ms (≤ 0.6×)',
        note: 'to the worker, which includes the read of the turn; peers to the handler',
      },
    },
    { name: 'the same', ours, peer: boss(0.5), unit: 'ms' },
    { name: 'pick-up, p99', ours: oursLate, peer: graphile(0.99), unit: 'ms', goal: '≤ 12 ms' },
    { name: 'the same', ours: oursLate, peer: boss(0.99), unit: 'ms' },
    {
      ...{ name: 'local fast path: accepted and claimed, p50', ours: median(times.local), unit: 'ms' },
      peer: { name: 'insert of one row and commit', value: median(times.floor) },
      ...{
        goal: '≤ 1.3× (≤ 1.1×)',
        note: 'ours: message, run, conversation, seven indexes; the floor: one row, one index',
      },
    },
  ]
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now()
  await work()
  return performance.now() - startedAt
}

async function startGraphile(url: string, onJob: () => void): Promise<Peer> {
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

async function startBoss(url: string, onJob: () => void): Promise<Peer> {
  const boss = new PgBoss({ connectionString: url, supervise: false, schedule: false, useListenNotify: true })
  boss.on('error', () => {})
  await boss.start()
  await boss.createQueue('pick', { notify: true })
  await boss.work('pick', { batchSize: 10, pollingIntervalSeconds: BOSS_POLL_SECONDS }, async () => onJob())
  return { add: () => boss.send('pick', PAYLOAD), stop: () => boss.stop({ graceful: false }) }
}
