import { expect, onTestFinished } from 'vitest'
import { SECRETS, sendRequest } from '../support/cluster.ts'
import { startEchoingProvider } from '../support/echoing-provider.ts'
import { followEvents } from '../support/follower.ts'
import type { Gateway } from '../support/gateway.ts'
import { productionEnv, test } from '../support/programs.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('the programs share it')

const FIRST = 'first-encryption-key-K7hQ2mZx9LpT4vRw'
const SECOND = 'second-encryption-key-B3nY8cJd5SfG1uHa'
const MODEL = { model: 'openai-compatible/m' }

/** One turn with the model that needs the stored key; the answer's text, or the error's code. */
async function say(gateway: Gateway, key: string): Promise<string> {
  const opened = await sendRequest('POST', `${gateway.url}/api/v1/agents`, {
    token: key,
    body: { forceNew: true, ...MODEL },
  })
  expect(opened.status, opened.text).toBe(201)
  const { agentId, token } = opened.body as { agentId: string; token: string }
  const url = `${gateway.url}/api/v1/agents/${agentId}`
  const follower = await followEvents(`${url}/events`, { token })
  const posted = await sendRequest('POST', `${url}/messages`, { token, body: { content: 'hello' } })
  const end = await follower.completed(String(posted.body.messageId))
  await follower.stop()
  return String(end.data.status)
}

test('a gateway with another key refuses to start, in a sentence, and nothing is harmed', async ({ programs }) => {
  const env = productionEnv(await programs.database())
  const first = await programs.serve({ ...env, ENCRYPTION_KEY: FIRST })
  await first.ready()
  for (const wrong of [{ ENCRYPTION_KEY: SECOND }, {}, { ENCRYPTION_KEY: SECOND, ENCRYPTION_KEYS_OLD: 'not-it' }]) {
    const refused = await programs.start(['serve'], { ...env, ...wrong, PORT: '0', HOST: '127.0.0.1', LOG_PRETTY: '0' })
    expect(await refused.exited).toEqual({ code: 1, signal: null })
    const line = refused.lines().find(({ level }) => level === 'fatal')
    expect(line?.msg).toMatch(
      /^Secrets in this database are sealed by the key [0-9a-f]{12}, which this process does not have/,
    )
    expect(line?.msg).toContain('ENCRYPTION_KEYS_OLD')
    expect(refused.stdout() + refused.stderr()).not.toMatch(/first-encryption|second-encryption/)
  }
  const again = await programs.serve({ ...env, ENCRYPTION_KEY: FIRST })
  await again.ready()
})

test('replicas that start at once on an empty database agree, with nothing but the two documented secrets', async ({
  programs,
}) => {
  const env = productionEnv(await programs.database({ empty: true }))
  const replicas = await Promise.all(Array.from({ length: 3 }, () => programs.serve(env)))
  await Promise.all(replicas.map((replica) => replica.ready()))
  const key = (await programs.run(['bootstrap'], env)).stdout.trim()
  const url = (at: number) => `${replicas[at]!.url}/api/default/secrets/TOKEN`
  const set = await sendRequest('PUT', url(0), { token: key, body: { value: 'x' } })
  expect(set.status).toBe(201)
  expect((await sendRequest('PUT', url(1), { token: key, body: { value: 'y' } })).status).toBe(200)
  expect((await programs.run(['secrets', 'rotate'], env)).stdout).toBe('0 values were sealed anew.\n')
})

test('keys are rotated while replicas serve, and the old one can go', async ({ programs }) => {
  const provider = await startEchoingProvider()
  onTestFinished(provider.stop)
  const base = { ...productionEnv(await programs.database()), OPENAI_COMPATIBLE_BASE_URL: provider.url }
  const begin = { ...base, ENCRYPTION_KEY: FIRST }
  const first = await programs.serve(begin)
  await first.ready()
  const key = (await programs.run(['bootstrap'], begin)).stdout.trim()
  const put = (gateway: Gateway, path: string, value: string) =>
    sendRequest('PUT', `${gateway.url}/api/default${path}`, { token: key, body: { value } })
  expect((await put(first, '/providers/openai-compatible/api-key', 'the-stored-provider-key')).status).toBe(201)
  for (let at = 0; at < 30; at++) expect((await put(first, `/secrets/S${at}`, `value ${at}`)).status).toBe(201)
  expect(
    (await programs.run(['secrets', 'rotate'], { ...base, ENCRYPTION_KEY: SECOND, ENCRYPTION_KEYS_OLD: FIRST })).stderr,
  ).toMatch(/^No gateway has started with this key yet/)
  first.signal('SIGTERM')
  await first.exited

  // Both keys are at hand; replicas serve while everything is sealed anew, twice at once.
  const both = { ...base, ENCRYPTION_KEY: SECOND, ENCRYPTION_KEYS_OLD: FIRST }
  const serving = await Promise.all([programs.serve(both), programs.serve(both)])
  await Promise.all(serving.map((gateway) => gateway.ready()))
  let rotating = true
  const turns = serving.map(async (gateway) => {
    const outcomes: string[] = []
    while (rotating || outcomes.length < 3) {
      outcomes.push(await say(gateway, key))
      expect((await put(gateway, `/secrets/S${outcomes.length % 30}`, 'another value')).status).toBe(200)
    }
    return outcomes
  })
  const rotations = await Promise.all([1, 2].map(() => programs.run(['secrets', 'rotate'], both)))
  rotating = false
  for (const rotation of rotations) expect(rotation).toMatchObject({ code: 0, stderr: '' })
  const counts = rotations.map(({ stdout }) => Number(/^(\d+) values? w/.exec(stdout)?.[1]))
  expect(counts[0]! + counts[1]!).toBeLessThanOrEqual(31)
  expect(new Set((await Promise.all(turns)).flat())).toEqual(new Set(['completed']))
  expect(new Set(provider.keys)).toEqual(new Set(['the-stored-provider-key']))
  for (const gateway of serving) gateway.signal('SIGTERM')
  await Promise.all(serving.map(({ exited }) => exited))

  const last = await programs.serve({ ...base, ENCRYPTION_KEY: SECOND })
  await last.ready()
  expect(await say(last, key)).toBe('completed')
  const listed = await sendRequest('GET', `${last.url}/api/default/secrets`, { token: key })
  expect(listed.body.secrets).toHaveLength(31)
})

test('a key of the organization makes a provider usable, on every replica at once, until it is removed', async ({
  programs,
}) => {
  const provider = await startEchoingProvider()
  onTestFinished(provider.stop)
  const env = { ...productionEnv(await programs.database()), ANTHROPIC_BASE_URL: provider.url }
  const [one, two] = await Promise.all([programs.serve(env), programs.serve(env)])
  await Promise.all([one.ready(), two.ready()])
  const key = (await programs.run(['bootstrap'], env)).stdout.trim()
  const open = (gateway: Gateway) =>
    sendRequest('POST', `${gateway.url}/api/v1/agents`, { token: key, body: { model: 'anthropic/m', dryRun: true } })
  const refused = await open(one)
  expect(refused).toMatchObject({ status: 400, body: { code: 'model_unavailable' } })
  expect(refused.body.error).toContain('a key of its own')
  const path = `${two.url}/api/default/providers/anthropic/api-key`
  expect((await sendRequest('PUT', path, { token: key, body: { value: 'own-key-of-the-organization' } })).status).toBe(
    201,
  )
  await expect.poll(async () => (await open(one)).status).toBe(200)
  expect((await open(two)).status).toBe(200)
  expect((await sendRequest('DELETE', path, { token: key })).status).toBe(204)
  await expect.poll(async () => (await open(one)).status).toBe(400)
  expect((await sendRequest('DELETE', path, { token: key })).status).toBe(404)
})

test('secrets are refused to who may not see or set them', async ({ programs }) => {
  const env = productionEnv(await programs.database())
  const gateway = await programs.serve(env)
  await gateway.ready()
  const key = (await programs.run(['bootstrap'], env)).stdout.trim()
  const opened = await sendRequest('POST', `${gateway.url}/api/v1/agents`, { token: key, body: {} })
  const session = String(opened.body.token)
  const requests: [string, string, unknown?][] = [
    ['GET', '/secrets'],
    ['PUT', '/secrets/TOKEN', { value: 'x' }],
    ['DELETE', '/secrets/TOKEN'],
    ['GET', '/agents/assistant/secrets'],
    ['PUT', '/agents/assistant/secrets/TOKEN', { value: 'x' }],
    ['DELETE', '/agents/assistant/secrets/TOKEN'],
    ['GET', '/providers'],
    ['PUT', '/providers/anthropic/api-key', { value: 'x' }],
    ['DELETE', '/providers/anthropic/api-key'],
    ['PUT', '/agents/assistant/providers/anthropic/api-key', { value: 'x' }],
    ['DELETE', '/agents/assistant/providers/anthropic/api-key'],
  ]
  for (const [method, path, body] of requests) {
    const ask = (org: string, token: string | null) =>
      sendRequest(method, `${gateway.url}/api/${org}${path}`, { token, ...(body ? { body } : {}) })
    expect((await ask('default', null)).status, path).toBe(401)
    expect((await ask('default', session)).status, path).toBe(403)
    expect((await ask('nobody', key)).status, path).toBe(404)
    expect((await ask('default', key)).status, path).toBeLessThan(405)
  }
  expect(gateway.stdout()).not.toContain(SECRETS.JWT_SECRET)
})
