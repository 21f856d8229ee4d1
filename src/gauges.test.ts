import { expect, onTestFinished, test, vi } from 'vitest'
import { type GaugeDeps, reportGauges } from './gauges.ts'
import { createMetrics } from './telemetry/prometheus.ts'

const DEPTHS = [{ queue: 'runs', depth: 7, oldestSeconds: 3 }]

/** Gauges over a database whose answer the test decides. */
function gauges(begin: () => Promise<unknown>) {
  const metrics = createMetrics()
  const asked = vi.fn(begin)
  reportGauges({
    metrics,
    db: { sql: { begin: asked } as never, load: () => ({ places: 10, busy: 4, waiting: 2 }) },
    loops: [{ name: 'publisher', ageMs: () => 1_500, staleMs: () => 13_000 } as GaugeDeps['loops'][number]],
    workers: () => ({
      ...{ workers: 5, busy: 2, warm: 1, max: 9, busyMax: 7 },
      ...{ isolation: 'advisory', fault: null, starting: false },
    }),
    streams: () => 11,
    streamsMax: 100,
    readiness: async () => ({ ready: false }),
    version: '1.2.3',
  })
  return { asked, text: async () => (await metrics.render()).text }
}

test('each part says how it stands', async () => {
  const { text } = gauges(async () => DEPTHS)
  const lines = (await text()).split('\n')
  for (const line of [
    'lobu_info{version="1.2.3"} 1',
    'lobu_ready 0',
    'lobu_isolation_tier 0',
    'lobu_queue_depth{queue="runs"} 7',
    'lobu_queue_oldest_age_seconds{queue="runs"} 3',
    'lobu_loop_age_seconds{loop="publisher"} 1.5',
    'lobu_loop_stale_seconds{loop="publisher"} 13',
    'lobu_streams 11',
    'lobu_streams_max 100',
    'lobu_workers{state="busy"} 2',
    'lobu_workers{state="idle"} 2',
    'lobu_workers_max 9',
    'lobu_workers_busy_max 7',
    'lobu_db_pool_connections{state="busy"} 4',
    'lobu_db_pool_connections{state="free"} 6',
    'lobu_db_pool_waiting 2',
  ]) {
    expect(lines).toContain(line)
  }
})

test('scrapes that come together, or soon after each other, ask the database once', async () => {
  const { asked, text } = gauges(async () => DEPTHS)
  await Promise.all([text(), text(), text()])
  await text()
  expect(asked).toHaveBeenCalledTimes(1)
})

test('a database that does not answer costs a scrape a second and the figures of the queues, and nothing else', async () => {
  vi.useFakeTimers()
  onTestFinished(() => void vi.useRealTimers())
  let answer: () => Promise<unknown> = async () => DEPTHS
  const { asked, text } = gauges(() => answer())
  await text()
  answer = () => new Promise(() => {})
  const late = async (ms: number) => {
    await vi.advanceTimersByTimeAsync(ms)
    const rendered = text()
    await vi.advanceTimersByTimeAsync(1_000)
    return rendered
  }
  // What was known a moment ago is still told; then it is left out, rather than told for ever.
  expect(await late(6_000)).toContain('lobu_queue_depth{queue="runs"} 7')
  const later = await late(40_000)
  expect(later).not.toContain('lobu_queue_depth{')
  expect(later).toContain('lobu_streams 11')
  expect(later).toMatch(/lobu_queue_sample_age_seconds 4[78]/)
  expect(asked).toHaveBeenCalledTimes(2)
})

test('before the first look at the queues there is no age of it, which would be taken for fresh', async () => {
  let answer: () => Promise<unknown> = () => Promise.reject(new Error('away'))
  const { text } = gauges(() => answer())
  expect(await text()).not.toMatch(/^lobu_queue_sample_age_seconds/m)
  answer = async () => DEPTHS
  expect(await text()).toMatch(/^lobu_queue_sample_age_seconds 0/m)
})

test('a database that refuses leaves the figures of the queues out, and is asked again', async () => {
  const { asked, text } = gauges(() => Promise.reject(new Error('away')))
  expect(await text()).not.toContain('lobu_queue_depth{')
  await text()
  expect(asked).toHaveBeenCalledTimes(2)
})
