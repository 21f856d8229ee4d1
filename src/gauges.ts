import type { Database } from './db/client.ts'
import { type QueueDepth, readQueueDepths } from './queue/depth.ts'
import type { ReadinessDeps } from './readiness.ts'
import type { Metrics } from './telemetry/metrics.ts'
import type { PoolSnapshot } from './workers/pool.ts'

/** As `docs/observability.md` explains them. A new kind of isolation must say here what it is worth. */
const TIERS: Record<PoolSnapshot['isolation'], number> = { advisory: 0 }
/** One look at the queues serves every scraper for this long. */
const SAMPLE_MS = 5_000
/** A scrape does not wait longer for a database that is slow; the next one has the figures. */
const SAMPLE_WAIT_MS = 1_000
/** Figures that are older say nothing about now. */
const SAMPLE_KEPT_MS = 30_000

export interface GaugeDeps {
  metrics: Metrics
  db: Pick<Database, 'sql' | 'load'>
  loops: ReadinessDeps['loops']
  workers(): PoolSnapshot
  streams(): number
  readiness(): Promise<{ ready: boolean }>
  version: string
  streamsMax: number
}

/** Brings the gauges up to date whenever somebody scrapes; nothing is measured while nobody does. */
export function reportGauges(deps: GaugeDeps): void {
  const { metrics, db } = deps
  if (!metrics.enabled) return
  const sample = createQueueSample(() => readQueueDepths(db.sql))

  metrics.beforeRender(() => {
    const { busy, warm, workers, max, busyMax, isolation } = deps.workers()
    metrics.set('lobu_info', [{ labels: { version: deps.version }, value: 1 }])
    metrics.set('lobu_isolation_tier', [{ labels: {}, value: TIERS[isolation] }])
    metrics.set('lobu_workers', [
      { labels: { state: 'busy' }, value: busy },
      { labels: { state: 'warm' }, value: warm },
      { labels: { state: 'idle' }, value: workers - busy - warm },
    ])
    metrics.set('lobu_workers_max', [{ labels: {}, value: max }])
    metrics.set('lobu_workers_busy_max', [{ labels: {}, value: busyMax }])
    metrics.set('lobu_streams', [{ labels: {}, value: deps.streams() }])
    metrics.set('lobu_streams_max', [{ labels: {}, value: deps.streamsMax }])
    const load = db.load()
    metrics.set('lobu_db_pool_connections', [
      { labels: { state: 'busy' }, value: load.busy },
      { labels: { state: 'free' }, value: load.places - load.busy },
    ])
    metrics.set('lobu_db_pool_waiting', [{ labels: {}, value: load.waiting }])
    const loops = deps.loops.map((loop) => ({ labels: { loop: loop.name }, loop }))
    const inSeconds = (ms: number) => ms / 1000
    metrics.set(
      'lobu_loop_age_seconds',
      loops.map(({ labels, loop }) => ({ labels, value: inSeconds(loop.ageMs()) })),
    )
    metrics.set(
      'lobu_loop_stale_seconds',
      loops.map(({ labels, loop }) => ({ labels, value: inSeconds(loop.staleMs()) })),
    )
  })
  metrics.beforeRender(async () => {
    metrics.set('lobu_ready', [{ labels: {}, value: (await deps.readiness()).ready ? 1 : 0 }])
  })
  metrics.beforeRender(async () => {
    const { depths, ageMs } = await sample()
    const readings = depths.map(({ queue, ...figures }) => ({ labels: { queue }, ...figures }))
    metrics.set(
      'lobu_queue_depth',
      readings.map(({ labels, depth }) => ({ labels, value: depth })),
    )
    metrics.set(
      'lobu_queue_oldest_age_seconds',
      readings.map(({ labels, oldestSeconds }) => ({ labels, value: oldestSeconds })),
    )
    // Without any look yet there is no age: a 0 would pass for fresh, and hide that no other replica can look either.
    metrics.set('lobu_queue_sample_age_seconds', ageMs === null ? [] : [{ labels: {}, value: ageMs / 1000 }])
  })
}

/** The newest figures of the queues. Scrapes that come together, or soon after each other, share one look. */
function createQueueSample(read: () => Promise<QueueDepth[]>) {
  let taken: { at: number; depths: QueueDepth[] } | undefined
  let look: Promise<void> | undefined

  async function refresh() {
    try {
      taken = { depths: await read(), at: performance.now() }
    } catch {
      // Said by the age of the figures; why the database does not answer, others log.
    } finally {
      look = undefined
    }
  }

  return async () => {
    if (taken === undefined || performance.now() - taken.at > SAMPLE_MS) {
      look ??= refresh()
      await Promise.race([look, new Promise((resolve) => setTimeout(resolve, SAMPLE_WAIT_MS).unref())])
    }
    if (taken === undefined) return { depths: [], ageMs: null }
    const ageMs = performance.now() - taken.at
    return { depths: ageMs > SAMPLE_KEPT_MS ? [] : taken.depths, ageMs }
  }
}
