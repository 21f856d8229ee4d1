import { expect } from 'vitest'
import { type Cluster, test } from '../support/cluster.ts'
import { until } from '../support/gateway.ts'
import { connectSse } from '../support/sse-client.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('the gateway needs it')

test.override('clusterOptions', { replicas: 3, env: { STREAM_PING_SECONDS: '1' } })

const CALLERS = 6
/** Answers that are waited for before and after a change: enough that every replica was asked many times. */
const ANSWERS = 150

interface Asked {
  askedAt: number
  answeredAt: number
  status: number
}

async function makeKey({ call }: Cluster, name: string) {
  const made = await call('POST', '/api/default/tokens', { body: { name } })
  if (made.status !== 201) throw new Error(`no key: ${made.status} ${made.text}`)
  return made.body.token as { id: string; token: string }
}

/** Asks the replicas in turn, by several callers at once, until it is stopped. */
function load({ call, replicas }: Cluster, { path, token }: { path: string; token: () => string }) {
  const asked: Asked[] = []
  let on = true
  const callers = Array.from({ length: CALLERS }, async (_, index) => {
    for (let turn = index; on; turn++) {
      const askedAt = performance.now()
      const { status } = await call('GET', path, { token: token(), at: replicas[turn % replicas.length]!.url })
      asked.push({ askedAt, answeredAt: performance.now(), status })
    }
  })
  const more = async () => {
    const enough = asked.length + ANSWERS
    await until(() => asked.length > enough, 'the replicas have answered')
  }
  return {
    asked,
    more,
    async stop() {
      on = false
      await Promise.all(callers)
    },
  }
}

test('once a revocation is answered, no replica accepts the key or what was made with it', async ({ cluster }) => {
  const { id, token } = await makeKey(cluster, 'revoked')
  const conversation = await cluster.open({}, { token })
  const requests = [
    load(cluster, { path: '/api/default/agents', token: () => token }),
    load(cluster, { path: `/api/v1/agents/${conversation.id}`, token: () => conversation.token }),
  ]
  for (const { more } of requests) await more()
  const { status } = await cluster.call('DELETE', `/api/default/tokens/${id}`, { at: cluster.replicas[0]!.url })
  const revokedAt = performance.now()
  for (const { more } of requests) await more()
  for (const { stop } of requests) await stop()

  expect(status).toBe(204)
  for (const { asked } of requests) {
    const after = asked.filter(({ askedAt }) => askedAt > revokedAt)
    expect(new Set(after.map((one) => one.status))).toEqual(new Set([401]))
    expect(after.length).toBeGreaterThan(ANSWERS / 2)
    expect(asked.slice(0, ANSWERS).map((one) => one.status)).not.toContain(401)
  }
})

test('a key is rotated under load and nobody is refused', async ({ cluster }) => {
  const old = await makeKey(cluster, 'rotated')
  let current = old.token
  const requests = load(cluster, { path: '/api/default/agents', token: () => current })
  await requests.more()
  const rotated = await cluster.call('POST', `/api/default/tokens/${old.id}/rotate`, { body: { overlapSeconds: 600 } })
  await requests.more()
  const fresh = rotated.body.token as { id: string; token: string }
  current = fresh.token
  await requests.more()
  await requests.stop()

  expect(rotated.status).toBe(201)
  expect(new Set(requests.asked.map(({ status }) => status))).toEqual(new Set([200]))
  // The end of the overlap, without the wait.
  await cluster.database.sql`update api_keys set expires_at = now() where id = ${old.id}`
  for (const { url } of cluster.replicas) {
    const statusOf = async (token: string) =>
      (await cluster.call('GET', '/api/default/agents', { token, at: url })).status
    await until(async () => (await statusOf(old.token)) === 401, 'the old key is refused')
    expect(await statusOf(fresh.token)).toBe(200)
  }
})

test('an organization goes with its keys, its runs and its streams, on every replica', async ({ cluster }) => {
  const slug = `acme-${cluster.random.seed.toString(36).slice(-6)}`.replace(/-+$/, '')
  const made = await cluster.call('POST', '/api/organizations', { body: { name: 'Acme', slug } })
  expect(made.status, made.text).toBe(201)
  const { id } = made.body.organization as { id: string }
  const { sql } = cluster.database
  const key = `lobu_${'k'.repeat(20)}${cluster.random.seed}`
  await sql`
    insert into api_keys (organization_id, id, user_id, name, token_hash, token_prefix)
    select ${id}, ${`key-${id}`}, user_id, 'k', encode(sha256(${key}::bytea), 'hex'), 'lobu_kkk'
    from members where organization_id = ${id}`
  const conversation = await cluster.open({}, { token: key })
  const follower = await conversation.follow({ at: cluster.replicas[1]!.url })
  await conversation.send('/words 2000 /delay 50')
  const gone = await cluster.call('DELETE', `/api/${slug}`, { token: key, at: cluster.replicas[0]!.url })
  expect(gone.status, gone.text).toBe(204)
  for (const { url } of cluster.replicas) {
    expect((await cluster.call('GET', `/api/${slug}`, { token: key, at: url })).status).toBe(401)
  }
  await follower.until(({ name }) => name === 'closed', 'the stream is closed')
  await follower.stop()
  expect(await sql`select 1 from runs where organization_id = ${id}`).toHaveLength(0)
  await until(
    async () => (await sql`select 1 from stream_presence where organization_id = ${id}`).length === 0,
    'nothing is left of the stream',
  )
})

test('streams that are open end when the key they came from is revoked, on every replica', async ({ cluster }) => {
  const [revoked, kept] = [await makeKey(cluster, 'revoked'), await makeKey(cluster, 'kept')]
  const conversation = await cluster.open({}, { token: revoked.token })
  const listen = (token: string, at: number) =>
    connectSse(`${cluster.replicas[at]!.url}/api/v1/agents/${conversation.id}/events`, {
      headers: { authorization: `Bearer ${token}` },
    })
  const ending = [await listen(revoked.token, 1), await listen(conversation.token, 2)]
  const bystander = await listen(kept.token, 1)
  expect((await cluster.call('DELETE', `/api/default/tokens/${revoked.id}`)).status).toBe(204)
  for (const client of ending) {
    await until(() => client.isClosed, 'the stream is closed')
    expect(client.all.at(-1)).toMatchObject({ name: 'closed', data: { reason: 'unauthorized' } })
  }
  const pings = () => bystander.all.filter(({ name }) => name === 'ping').length
  const before = pings()
  await until(() => pings() > before + 1, 'the other one goes on')
  expect(bystander.isClosed).toBe(false)
})
