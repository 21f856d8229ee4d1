/** graphile-worker (batched local queue) and pg-boss (fetch 50), the way their manuals say is fastest. */
import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import { PgBoss } from 'pg-boss'
import { openDatabase } from '../src/db/client.ts'
import { PAYLOAD } from './scene.ts'
import { log, rate } from './support.ts'

export interface QueuePeer {
  name: string
  /** Single rows a second. */
  enqueue(total: number, callers: number): Promise<number>
  /** Jobs a second from a backlog that is there already, until it is gone. */
  drain(total: number): Promise<number>
  /** Jobs a second while `callers` enqueue `batch` at a time and the consumer runs. */
  endToEnd(total: number, how: { batch: number; callers: number }): Promise<number>
  stop(): Promise<void>
}

const CONCURRENT = 24
const FETCH = 50
const FETCHERS = 4
const FILL = 500

export async function prepareGraphile(url: string): Promise<QueuePeer> {
  const logger = new Logger(() => () => {})
  const worker = { connectionString: url, concurrentJobs: CONCURRENT, maxPoolSize: CONCURRENT + 1, logger }
  const fast = { pollInterval: 2_000, localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 }
  const preset = { worker: { ...worker, ...fast } }
  const utils = await makeWorkerUtils({ preset })
  await utils.migrate()
  const database = await openDatabase({ url, poolMax: 2, dataDir: null, log })
  const clear = async () => {
    await database.sql.unsafe('truncate graphile_worker._private_jobs')
    await database.sql.unsafe('vacuum analyze graphile_worker._private_jobs')
  }
  const add = (count: number) =>
    count === 1
      ? utils.addJob('noop', PAYLOAD)
      : utils.addJobs(Array.from({ length: count }, () => ({ identifier: 'noop', payload: PAYLOAD })))

  /** Milliseconds from the start of `work` until `total` jobs were done. */
  async function timeJobs(total: number, work: (start: () => Promise<void>) => Promise<void>) {
    let done = 0
    const finished = Promise.withResolvers<number>()
    const noop = async () => {
      if (++done === total) finished.resolve(performance.now())
    }
    let runner: Awaited<ReturnType<typeof run>> | undefined
    let startedAt = performance.now()
    await work(async () => {
      startedAt = performance.now()
      runner = await run({ preset, noHandleSignals: true, taskList: { noop } })
    })
    const endedAt = await finished.promise
    await runner?.stop()
    return { startedAt, endedAt }
  }

  return {
    name: 'graphile-worker',
    async enqueue(total, callers) {
      await clear()
      return rate(total, callers, () => add(1))
    },
    async drain(total) {
      await clear()
      for (let from = 0; from < total; from += FILL) await add(Math.min(FILL, total - from))
      const { startedAt, endedAt } = await timeJobs(total, (start) => start())
      return (total / (endedAt - startedAt)) * 1000
    },
    async endToEnd(total, { batch, callers }) {
      await clear()
      let startedAt = 0
      const { endedAt } = await timeJobs(total, async (start) => {
        await start()
        startedAt = performance.now()
        await rate(total / batch, callers, () => add(batch))
      })
      return (total / (endedAt - startedAt)) * 1000
    },
    async stop() {
      await utils.release()
      await database.close()
    },
  }
}

export async function prepareBoss(url: string): Promise<QueuePeer> {
  const boss = new PgBoss({ connectionString: url, max: 25, supervise: false, schedule: false })
  boss.on('error', () => {})
  await boss.start()
  await boss.createQueue('noop')
  const add = (count: number) =>
    count === 1
      ? boss.send('noop', PAYLOAD)
      : boss.insert(
          'noop',
          Array.from({ length: count }, () => ({ data: PAYLOAD })),
        )

  /** Fetches until `isOver` says so when nothing was found. */
  async function consume(isOver: () => boolean, onDone: (count: number) => void) {
    while (!isOver()) {
      const jobs = await boss.fetch('noop', { batchSize: FETCH })
      if (!jobs?.length) {
        if (isOver()) return
        await new Promise((resolve) => setTimeout(resolve, 2))
        continue
      }
      await boss.complete(
        'noop',
        jobs.map((job) => job.id),
      )
      onDone(jobs.length)
    }
  }

  async function consumeAll(total: number, produce: () => Promise<unknown>): Promise<number> {
    let done = 0
    const startedAt = performance.now()
    const consumers = Array.from({ length: FETCHERS }, () =>
      consume(
        () => done >= total,
        (count) => {
          done += count
        },
      ),
    )
    await Promise.all([produce(), ...consumers])
    return (total / (performance.now() - startedAt)) * 1000
  }

  return {
    name: 'pg-boss',
    async enqueue(total, callers) {
      await boss.deleteAllJobs('noop')
      return rate(total, callers, () => add(1))
    },
    async drain(total) {
      await boss.deleteAllJobs('noop')
      for (let from = 0; from < total; from += FILL) await add(Math.min(FILL, total - from))
      return consumeAll(total, async () => {})
    },
    async endToEnd(total, { batch, callers }) {
      await boss.deleteAllJobs('noop')
      return consumeAll(total, () => rate(total / batch, callers, () => add(batch)))
    },
    stop: () => boss.stop({ graceful: false }),
  }
}
