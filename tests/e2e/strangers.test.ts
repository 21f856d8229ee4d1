import { createHash, hkdfSync, randomBytes } from 'node:crypto'
import { SignJWT, UnsecuredJWT } from 'jose'
import { describe, expect } from 'vitest'
import { type Answer, type Cluster, type Conversation, SECRETS, test } from '../support/cluster.ts'
import { until } from '../support/gateway.ts'
import { makeOrganization } from '../support/organization.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('the gateway needs it')

test.override('clusterOptions', { replicas: 1, env: {} })

/** Refused as every refusal is: JSON, a stable word, `success: false` in the agent API, a hint for browsers at 401. */
function expectRefused(answer: Answer, statuses: number[], what: string) {
  expect(statuses, `${what}: ${answer.status} ${answer.text.slice(0, 200)}`).toContain(answer.status)
  expect(answer.headers['content-type'], what).toMatch(/^application\/json/)
  expect(answer.body, what).toMatchObject({ error: expect.any(String), code: expect.stringMatching(/^[a-z_]+$/) })
  if (what.includes('/api/v1/')) expect(answer.body.success, what).toBe(false)
  if (answer.status === 401) expect(answer.headers['www-authenticate'], what).toMatch(/^Bearer/)
}

/** Claims of a session token of this conversation, as `POST /agents` hands them out. */
async function claimsOf({ database }: Cluster, { id }: Conversation) {
  const [row] = await database.sql<{ org: string; slug: string; agent: string; sub: string }[]>`
    select c.organization_id as org, o.slug, c.agent_id as agent, c.user_id as sub
    from conversations c join organizations o on o.id = c.organization_id where c.id = ${id}`
  return { ...row!, conv: id }
}

const hour = () => Math.floor(Date.now() / 1000) + 3600
const keyOf = (secret: string) => new Uint8Array(hkdfSync('sha256', secret, '', 'lobu session token v1', 32))

function sign({ sub, ...claims }: Awaited<ReturnType<typeof claimsOf>>, over: Partial<Token> = {}): Promise<string> {
  const token: Token = { secret: SECRETS.JWT_SECRET, audience: 'session', issuer: 'lobu', expires: hour(), ...over }
  return new SignJWT(claims)
    .setProtectedHeader({ alg: 'HS256', typ: 'JWT' })
    .setSubject(sub)
    .setIssuer(token.issuer)
    .setAudience(token.audience)
    .setIssuedAt()
    .setExpirationTime(token.expires)
    .sign(keyOf(token.secret))
}

interface Token {
  secret: string
  audience: string
  issuer: string
  expires: number
}

describe('a credential that is not one', () => {
  test('opens nothing, whatever is wrong with it', async ({ cluster }) => {
    const conversation = await cluster.open()
    const claims = await claimsOf(cluster, conversation)
    const good = await sign(claims)
    const path = `/api/v1/agents/${conversation.id}`
    // With this one right, the others are refused for what is wrong with them and not for how they were made.
    expect((await cluster.call('GET', path, { token: good })).status).toBe(200)
    const [head, , signature] = good.split('.')
    const forged = Buffer.from(JSON.stringify({ ...claims, aud: 'session', iss: 'lobu', exp: hour() })).toString(
      'base64url',
    )
    const unsigned = new UnsecuredJWT(claims).setSubject(claims.sub).setIssuer('lobu').setAudience('session')
    const bad: Record<string, string | null> = {
      none: null,
      random: randomBytes(24).toString('base64url'),
      'random key': `lobu_${randomBytes(24).toString('base64url')}`,
      'key with one letter changed': cluster.key.slice(0, -1) + (cluster.key.endsWith('A') ? 'B' : 'A'),
      'audience of workers': await sign(claims, { audience: 'worker' }),
      'other issuer': await sign(claims, { issuer: 'somebody' }),
      'other secret': await sign(claims, { secret: SECRETS.BETTER_AUTH_SECRET }),
      expired: await sign(claims, { expires: Math.floor(Date.now() / 1000) - 1 }),
      'alg none': unsigned.setExpirationTime('1h').encode(),
      'claims changed': `${head}.${forged}.${signature}`,
      'no signature': `${head}.${forged}.`,
      'three dots': '...',
      'very long': 'x'.repeat(10_000),
    }
    for (const [what, token] of Object.entries(bad)) {
      for (const rest of ['', '/events', '/history/status']) {
        expectRefused(await cluster.call('GET', `${path}${rest}`, { token }), [401], `GET /api/v1/…${rest} ${what}`)
      }
      const posted = await conversation.post('/echo let me in', { token })
      expectRefused(posted, [401], `POST /api/v1/…/messages ${what}`)
    }
    for (const authorization of ['Bearer', 'Bearer ', `Basic ${cluster.key}`, cluster.key, `Bearer a ${cluster.key}`]) {
      const answer = await cluster.call('GET', path, { token: null, headers: { authorization } })
      expectRefused(answer, [401], `GET /api/v1/… with "${authorization.slice(0, 12)}"`)
    }
    for (const query of [`token=${cluster.key}`, `access_token=${good}`, `key=${cluster.key}`]) {
      expectRefused(await cluster.call('GET', `${path}?${query}`, { token: null }), [401], 'GET /api/v1/… in the query')
    }
    const stats = await cluster.call('GET', `${path}/history/session/stats`)
    expect(stats.body.messageCount).toBe(0)
  })

  test('a key stops working when it is revoked, and when it has expired', async ({ cluster }) => {
    for (const change of [{ revoked_at: new Date() }, { expires_at: new Date(Date.now() - 1000) }]) {
      const { key } = await makeOrganization(cluster)
      const isRefused = async () => (await cluster.call('GET', '/api/v1/agents', { token: key })).status === 401
      expect(await isRefused()).toBe(false)
      const { sql } = cluster.database
      await sql`update api_keys set ${sql(change)} where token_hash = ${sha256(key)}`
      await until(isRefused, 'the key is refused')
    }
  })
})

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')

test('lists hold only what is the caller’s own, and names of others find nothing', async ({ cluster }) => {
  await cluster.call('POST', '/api/default/agents', { body: { agentId: 'victims-agent', name: 'Secret' } })
  const { key, slug } = await makeOrganization(cluster)
  const listed = (await cluster.call('GET', '/api/v1/agents', { token: key })).body.agents as { agentId: string }[]
  expect(listed.map(({ agentId }) => agentId)).toEqual(['assistant'])
  const opened = await cluster.call('POST', '/api/v1/agents', { token: key, body: { agentId: 'victims-agent' } })
  expectRefused(opened, [404], 'POST /api/v1/agents')
  // Names may repeat in two organizations; what they name is not the same.
  const place = { userId: 'same', thread: 'same', agentId: 'assistant' }
  const ours = await cluster.call('POST', '/api/v1/agents', { body: place })
  const theirs = await cluster.call('POST', '/api/v1/agents', { token: key, body: place })
  expect(theirs.status).toBe(201)
  expect(theirs.body.agentId).not.toBe(ours.body.agentId)
  const known = await cluster.call('GET', '/api/v1/agents', { token: key, headers: { 'x-lobu-org': 'default' } })
  expectRefused(known, [403], 'GET /api/v1/agents of another organization')
  const unknown = await cluster.call('GET', '/api/v1/agents', { token: key, headers: { 'x-lobu-org': 'nobody' } })
  expectRefused(unknown, [404], 'GET /api/v1/agents of no organization')
  expect((await cluster.call('GET', `/api/${slug}/agents`, { token: key })).status).toBe(200)
})
