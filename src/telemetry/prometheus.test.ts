import { expect, test } from 'vitest'
import { type Definition, METRICS } from './definitions.ts'
import { createMetrics } from './prometheus.ts'

test('every metric is named by the rules of Prometheus, says what it is, and has few labels', () => {
  for (const [name, { kind, help, labels, values = {} }] of Object.entries<Definition>(METRICS)) {
    expect(name).toMatch(/^lobu_[a-z0-9_]+$/)
    expect(name.endsWith('_total'), name).toBe(kind === 'counter')
    if (kind === 'histogram') expect(name).toMatch(/_seconds$/)
    expect(help.length, name).toBeGreaterThan(10)
    expect(labels.length, name).toBeLessThanOrEqual(3)
    expect(labels, name).toEqual(expect.arrayContaining(Object.keys(values)))
    expect(labels, name).not.toEqual(expect.arrayContaining([expect.stringMatching(/id$|user|organization|path$/i)]))
  }
})

test('counters, histograms and gauges are rendered, and so is the process itself', async () => {
  const metrics = createMetrics()
  metrics.count('lobu_runs_ended_total', { status: 'completed' }, 2)
  metrics.observe('lobu_claim_latency_seconds', {}, 0.02)
  metrics.observe('lobu_claim_latency_seconds', {}, -5)
  let streams = 3
  metrics.beforeRender(() => metrics.set('lobu_streams', [{ labels: {}, value: streams }]))
  const first = (await metrics.render()).text
  expect(first).toContain('lobu_runs_ended_total{status="completed"} 2')
  expect(first).toContain('lobu_claim_latency_seconds_count 2')
  expect(first).toContain('lobu_claim_latency_seconds_bucket{le="0.001"} 1')
  expect(first).toContain('lobu_streams 3')
  expect(first).toContain('nodejs_eventloop_lag_seconds')
  streams = 0
  expect((await metrics.render()).text).toContain('lobu_streams 0')
})

test('a gauge that nobody has set is left out, but for readiness, which is no until somebody says yes', async () => {
  const metrics = createMetrics()
  const isGauge = (line: string) => METRICS[/^\w+/.exec(line)?.[0] as keyof typeof METRICS]?.kind === 'gauge'
  const gauges = async () => (await metrics.render()).text.split('\n').filter(isGauge)
  expect(await gauges()).toEqual(['lobu_ready 0'])
  metrics.set('lobu_ready', [{ labels: {}, value: 1 }])
  metrics.set('lobu_streams', [{ labels: {}, value: 0 }])
  expect(await gauges()).toEqual(['lobu_ready 1', 'lobu_streams 0'])
  metrics.set('lobu_streams', [])
  expect(await gauges()).toEqual(['lobu_ready 1'])
})

test('an update that fails leaves its figures out and nothing else', async () => {
  const metrics = createMetrics()
  metrics.beforeRender(() => {
    throw new Error('not now')
  })
  metrics.beforeRender(() => Promise.reject(new Error('nor now')))
  metrics.beforeRender(() => metrics.set('lobu_ready', [{ labels: {}, value: 1 }]))
  expect((await metrics.render()).text).toContain('lobu_ready 1')
})

test('names that anybody can make up do not grow the number of series without bound', async () => {
  const metrics = createMetrics()
  for (let i = 0; i < 10_000; i++) {
    metrics.count('lobu_tokens_total', { provider: 'openai-compatible', model: `made-up-${i}`, kind: 'input' }, 1)
  }
  metrics.count('lobu_tokens_total', { provider: 'openai', model: 'x'.repeat(5_000), kind: 'input' }, 1)
  const { text } = await metrics.render()
  const series = text.split('\n').filter((line) => line.startsWith('lobu_tokens_total{'))
  expect(series.length).toBeLessThan(120)
  const sum = series.reduce((total, line) => total + Number(line.split(' ').at(-1)), 0)
  expect(sum).toBe(10_001)
  expect(Math.max(...series.map((line) => line.length))).toBeLessThan(400)
})
