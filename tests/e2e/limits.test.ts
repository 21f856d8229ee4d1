import { expect } from 'vitest'
import { type Answer, type Cluster, test } from '../support/cluster.ts'
import { until } from '../support/gateway.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('three replicas share it')

test.override('clusterOptions', {
  replicas: 3,
  env: { WORKERS_BUSY_MAX: '10', WORKER_STEPS_MAX: '200', TURN_CHARS_MAX: '4000' },
})

const NONE = {
  requestsPerMinute: null,
  keyRequestsPerMinute: null,
  runsMax: null,
  tokensPerMonth: null,
  costMicrosPerMonth: null,
}

async function organizationOf({ database }: Cluster): Promise<{ id: string; slug: string }> {
  const [row] = await database.sql<{ id: string; slug: string }[]>`select id, slug from organizations`
  return row!
}

/** Sets limits through the API of any replica. */
async function limit(cluster: Cluster, limits: Partial<Record<keyof typeof NONE, number>>) {
  const { slug } = await organizationOf(cluster)
  const answer = await cluster.call('PUT', `/api/${slug}/limits`, { body: { ...NONE, ...limits } })
  expect(answer.status, answer.text).toBe(200)
}

const codesOf = (answers: Answer[]) => answers.map(({ status, body }) => `${status} ${body.code ?? 'ok'}`)

test('a turn whose budget runs out is stopped at its next step on whichever replica, and no message comes in after it', async ({
  cluster,
}) => {
  const { slug } = await organizationOf(cluster)
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  await limit(cluster, { tokensPerMonth: 3_000 })
  const { messageId, runId } = await conversation.send('/tools 100 /delay 5')
  await follower.completed(messageId)
  await follower.stop()

  const ends = follower.events().slice(-2)
  expect(ends.map((event) => event.name)).toEqual(['error', 'complete'])
  expect(ends[0]!.data).toMatchObject({ type: 'error', code: 'budget_exhausted', messageId })
  expect(ends[1]!.data).toMatchObject({ status: 'failed', messageId })
  expect((await cluster.call('GET', `/api/v1/runs/${runId}`)).body).toMatchObject({
    status: 'failed',
    attempt: 1,
    error: { code: 'budget_exhausted' },
  })

  // It was one step over the budget at most: before the last one something was left.
  const steps = await cluster.database.sql<{ tokens: number }[]>`
    select (usage->>'inputTokens')::int + (usage->>'outputTokens')::int as tokens from messages
    where run_id = ${runId} and usage is not null order by position`
  const used = steps.reduce((sum, step) => sum + step.tokens, 0)
  expect(used).toBeGreaterThanOrEqual(3_000)
  expect(used - steps.at(-1)!.tokens).toBeLessThan(3_000)

  const refused = await Promise.all(Array.from({ length: 9 }, () => conversation.post('and another')))
  expect(new Set(codesOf(refused))).toEqual(new Set(['429 budget_exhausted']))
  expect(Number(refused[0]!.headers['retry-after'])).toBeGreaterThan(0)
  const stored = await cluster.database.sql`select 1 from messages where role = 'user' and text = 'and another'`
  expect(stored).toEqual([])

  // What was used is shown the same by every replica, and is what the run says of itself.
  const usage = async (url: string) => (await cluster.call('GET', `/api/${slug}/usage?group=model`, { at: url })).body
  const rows = async () =>
    Promise.all(cluster.replicas.map(async ({ url }) => (await usage(url)).rows as { runs: number }[]))
  await until(async () => (await rows()).every(([row]) => row?.runs === 1), 'the run is counted')
  const run = (await cluster.call('GET', `/api/v1/runs/${runId}`)).body as { usage: Record<string, number> }
  for (const [row] of await rows()) expect(row).toMatchObject({ key: 'demo/demo', ...run.usage, costMicros: 0 })
  const csv = await cluster.call('GET', `/api/${slug}/usage.csv`)
  expect(csv.headers['content-type']).toBe('text/csv; charset=utf-8')
  expect(csv.text.split('\r\n')).toHaveLength(3)

  await limit(cluster, {})
  expect((await conversation.post('thanks')).status).toBe(200)
})

test('a turn that writes without end is ended, with what it has written', async ({ cluster }) => {
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const { messageId, runId } = await conversation.send('/words 5000 /delay 1')
  const { data } = await follower.completed(messageId)
  await follower.stop()
  expect(data).toMatchObject({ status: 'failed', messageId })
  const said = follower.events().flatMap((event) => (event.name === 'output' ? [event.data.content] : []))
  expect(said.join('')).toBe(data.finalText)
  expect(data.finalText.length).toBeGreaterThan(3_000)
  expect(data.finalText.length).toBeLessThanOrEqual(4_000)
  const run = (await cluster.call('GET', `/api/v1/runs/${runId}`)).body
  expect(run).toMatchObject({ status: 'failed', attempt: 1, error: { code: 'turn_too_long' } })
})

test('turns of one organization keep to its own number over all replicas', async ({ cluster }) => {
  await limit(cluster, { runsMax: 2 })
  const conversations = await Promise.all(Array.from({ length: 8 }, () => cluster.open()))
  let most = 0
  let open = true
  const watching = (async () => {
    while (open) {
      const [row] = await cluster.database.sql<{ n: number }[]>`
        select count(*)::int as n from runs where state = 'running'`
      most = Math.max(most, row!.n)
    }
  })()
  const ids = await Promise.all(conversations.map((one) => one.send('/words 20 /delay 10')))
  await until(async () => {
    const [row] = await cluster.database.sql<{ n: number }[]>`
      select count(*)::int as n from runs where id = any(${ids.map((one) => one.runId)}::uuid[]) and state = 'completed'`
    return row!.n === 8
  }, 'all eight are answered')
  open = false
  await watching
  expect(most).toBe(2)
  await limit(cluster, {})
})

test('three replicas let through as many requests as the limit says, not three times that', async ({ cluster }) => {
  const { slug, id } = await organizationOf(cluster)
  await limit(cluster, { requestsPerMinute: 60 })
  for (const { url } of cluster.replicas) {
    const known = async () => (await cluster.call('GET', `/api/${slug}/agents`, { at: url })).headers['ratelimit-limit']
    await until(async () => (await known()) === '60', 'the limit is known')
  }
  await cluster.database.sql`delete from rate_buckets where organization_id = ${id}`
  const startedAt = performance.now()
  const answers = await Promise.all(Array.from({ length: 180 }, () => cluster.call('GET', `/api/${slug}/agents`)))
  const seconds = (performance.now() - startedAt) / 1000
  const admitted = answers.filter((answer) => answer.status === 200)
  const refused = answers.filter((answer) => answer.status !== 200)
  expect(new Set(codesOf(refused))).toEqual(new Set(['429 rate_limited']))
  expect(admitted.length).toBeGreaterThanOrEqual(60)
  // One comes back every second.
  expect(admitted.length).toBeLessThanOrEqual(60 + Math.ceil(seconds))
  for (const { headers } of refused) expect(Number(headers['retry-after'])).toBeGreaterThan(0)
  for (const { headers } of admitted) expect(headers['ratelimit-limit']).toBe('60')
  expect(new Set(answers.map((answer) => answer.headers['x-served-by'])).size).toBe(3)

  // Who is not limited: health, and who has no credential and so counts for nobody.
  const open = await Promise.all(cluster.replicas.map(({ url }) => cluster.call('GET', '/health/ready', { at: url })))
  expect(codesOf(open)).toEqual(['200 ok', '200 ok', '200 ok'])
  expect((await cluster.call('GET', `/api/${slug}/agents`, { token: null })).status).toBe(401)
})
