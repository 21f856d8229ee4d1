import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, onTestFinished } from 'vitest'
import { METRICS } from '../../src/telemetry/definitions.ts'
import { test } from '../support/cluster.ts'
import { until } from '../support/gateway.ts'
import { type Scrape, scrape } from '../support/scrape.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('several replicas share it')

test.override('clusterOptions', {
  replicas: 2,
  env: { METRICS_PORT: '0', METRICS_AUTH_TOKEN: 'the token of the scraper', WEBHOOK_ALLOWED_HOSTS: '127.0.0.1' },
})

const TOKEN = { authorization: 'Bearer the token of the scraper' }

/** Answers webhooks with this status. */
async function startReceiver(status: number): Promise<string> {
  const server = createServer((_req, res) => res.writeHead(status).end())
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
}

test('what happened is counted where it happened, without a name of anybody', async ({ cluster }) => {
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  onTestFinished(follower.stop)
  const done = await conversation.send('/words 50', { webhookUrl: await startReceiver(204) })
  await follower.completed(done.messageId)
  const failed = await conversation.send('/fail 400', { webhookUrl: await startReceiver(410) })
  await follower.completed(failed.messageId)
  const hanging = await conversation.send('/hang')
  await until(
    async () => (await cluster.call('GET', `/api/v1/runs/${hanging.runId}`)).body.status === 'running',
    'it runs',
  )
  expect((await conversation.cancel()).status).toBe(200)

  const both = () => Promise.all(cluster.replicas.map((gateway) => scrape(gateway, TOKEN)))
  const total = (scrapes: Scrape[], series: string) => scrapes.reduce((sum, one) => sum + (one.value(series) ?? 0), 0)
  const seen = await until(async () => {
    const scrapes = await both()
    const webhooks = total(scrapes, 'lobu_webhooks_total{outcome="given_up"}')
    return webhooks === 1 && total(scrapes, 'lobu_webhooks_total{outcome="delivered"}') === 1 ? scrapes : undefined
  }, 'both webhooks are counted')

  expect(total(seen, 'lobu_runs_ended_total{status="completed"}')).toBe(1)
  expect(total(seen, 'lobu_runs_ended_total{status="failed"}')).toBe(1)
  expect(total(seen, 'lobu_runs_ended_total{status="cancelled"}')).toBe(1)
  expect(total(seen, 'lobu_dead_letters_total{kind="webhook"}')).toBe(1)
  expect(total(seen, 'lobu_egress_total{outcome="ok"}')).toBe(1)
  expect(total(seen, 'lobu_egress_total{outcome="status"}')).toBe(1)
  expect(total(seen, 'lobu_claim_latency_seconds_count')).toBe(3)
  expect(total(seen, 'lobu_delivery_latency_seconds_count')).toBeGreaterThan(0)
  expect(total(seen, 'lobu_tokens_total{provider="demo",model="demo",kind="output"}')).toBeGreaterThan(0)
  expect(total(seen, 'lobu_cost_usd_total{provider="demo",model="demo"}')).toBe(0)
  expect(total(seen, 'lobu_model_call_duration_seconds_count{provider="demo",status="2xx"}')).toBe(1)
  expect(total(seen, 'lobu_model_call_duration_seconds_count{provider="demo",status="4xx"}')).toBe(1)
  expect(
    total(
      seen,
      'lobu_http_request_duration_seconds_count{method="POST",route="/api/v1/agents/:id/messages",status="2xx"}',
    ),
  ).toBe(3)
  expect(total(seen, 'lobu_streams')).toBe(1)
  for (const one of seen) {
    expect(one.value('lobu_ready')).toBe(1)
    expect(one.value('lobu_isolation_tier')).toBe(0)
    expect(one.labels('lobu_queue_depth', 'queue').sort()).toEqual(['outbox', 'runs', 'thread_response'])
    expect(one.labels('lobu_loop_age_seconds', 'loop')).toEqual(
      expect.arrayContaining(['publisher', 'sweeper', 'claims']),
    )
    expect(one.sum('lobu_db_pool_connections')).toBe(10)
    expect(one.value('lobu_queue_sample_age_seconds')).toBeLessThan(60)
    expect(one.sum('lobu_workers')).toBeLessThanOrEqual(one.value('lobu_workers_max')!)
    expect(one.value('lobu_workers_busy_max')).toBe(20)
    expect(one.value('nodejs_eventloop_lag_p99_seconds')).toBeGreaterThanOrEqual(0)
    for (const name of Object.keys(METRICS)) expect(one.text, name).toContain(`# TYPE ${name} `)
    for (const id of [conversation.id, done.runId, done.messageId]) expect(one.text).not.toContain(id)
  }
})

test('figures are on a port of their own, and only for who has the token', async ({ cluster }) => {
  const [gateway] = cluster.replicas
  const { port } = await gateway!.logged('metrics listening')
  expect((await fetch(`http://127.0.0.1:${port}/metrics`)).status).toBe(401)
  expect((await fetch(`http://127.0.0.1:${port}/health`)).status).toBe(404)
  expect((await fetch(`${gateway!.url}/metrics`, { headers: TOKEN })).status).toBe(404)
})

test('runs that nobody can take are seen as they wait', async ({ cluster }) => {
  const [row] = await cluster.database.sql<{ id: string }[]>`select id from organizations`
  const conversation = await cluster.open()
  await cluster.database.sql`
    insert into organization_limits (organization_id, runs_max) values (${row!.id}, 0)
    on conflict (organization_id) do update set runs_max = 0`
  onTestFinished(async () => {
    await cluster.database.sql`update organization_limits set runs_max = null`
  })
  await conversation.send('/words 1')
  const waiting = await until(async () => {
    const one = await scrape(cluster.replicas[0]!, TOKEN)
    return (
      one.value('lobu_queue_depth{queue="runs"}') === 1 && one.value('lobu_queue_oldest_age_seconds{queue="runs"}')! > 1
    )
  }, 'it is seen to wait')
  expect(waiting).toBe(true)
})
