import { connect } from 'node:net'
import { pino } from 'pino'
import { describe, expect, onTestFinished, vi } from 'vitest'
import { createTestApp, PUBLIC_URL } from '../../tests/support/gateway-app.ts'
import { PATIENT } from '../../tests/support/http.ts'
import { createScene } from '../../tests/support/scene.ts'
import { test, type World } from '../../tests/support/world.ts'
import { createApiKey } from '../domain/accounts/api-keys.ts'
import type { GatewayAppDeps } from './app.ts'
import { createHttpApp } from './router.ts'
import { createHttpServer } from './server.ts'

async function createStage(world: World, over: Partial<GatewayAppDeps> = {}) {
  const scene = await createScene(world)
  const { call, app } = createTestApp(scene, world, over)
  const { organizationId } = scene
  const { token } = await createApiKey(scene.sql, { organizationId, userId: null, name: 'test' })
  return { scene, call, app, token, base: `/api/${organizationId}` }
}

describe('a body is bounded wherever one is taken:', () => {
  const form = (bytes: number) => ({
    body: `grant_type=${'x'.repeat(bytes)}`,
    type: 'application/x-www-form-urlencoded',
  })
  const json = (bytes: number) => ({ body: JSON.stringify({ name: 'x'.repeat(bytes) }), type: 'application/json' })

  test.for([
    ['POST', '/api/auth/sign-in/email', json(65_536)],
    ['POST', '/oauth/token', form(16_384)],
    ['POST', '/oauth/revoke', form(16_384)],
    ['POST', '/oauth/device', form(16_384)],
    ['POST', '/device', form(16_384)],
    ['POST', '/consent', form(16_384)],
    ['POST', '/oauth/register', json(16_384)],
    ['POST', '/setup', json(1_048_576)],
    ['POST', '/invite', json(1_048_576)],
    ['POST', '/api/v1/agents', json(1_048_576)],
    ['POST', '/api/v1/agents/conv_1/messages', json(1_048_576)],
    ['POST', '/api/v1/agents/conv_1/cancel', json(1_048_576)],
    ['PATCH', '/api/ORG', json(1_048_576)],
    ['POST', '/api/ORG/agents', json(1_048_576)],
    ['POST', '/api/ORG/tokens', json(1_048_576)],
    ['PUT', '/api/ORG/limits', json(1_048_576)],
  ] as const)('%s %s answers 413 to more', async ([method, path, { body, type }], { world }) => {
    const { scene, app, token } = await createStage(world, { findReader: async () => null })
    const response = await app.request(path.replace('ORG', scene.organizationId), {
      ...{ method, body },
      headers: {
        ...{ authorization: `Bearer ${token}`, 'content-type': type, 'content-length': String(body.length) },
        origin: PUBLIC_URL,
      },
    })
    expect(response.status).toBe(413)
    expect(await response.json()).toMatchObject({ code: 'payload_too_large' })
  })

  test('what is too deep or has too long a text is 400, naming the field', async ({ world }) => {
    const { scene, call, app, token } = await createStage(world)
    const conversation = `/api/v1/agents/${await scene.open()}/messages`
    const deep = await app.request(conversation, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: `${'['.repeat(65)}${']'.repeat(65)}`,
    })
    expect([deep.status, await deep.json()]).toMatchObject([400, { code: 'invalid_request' }])
    const long = await call('POST', conversation, { token, body: { content: 'x'.repeat(100_001) } })
    expect(long).toMatchObject({ status: 400, body: { code: 'invalid_request' } })
    expect(long.body.error).toContain('content')
  })
})

describe('a replica', () => {
  test('that works on as many requests as it may answers 503 to the next, and takes it a moment later', async ({
    world,
  }) => {
    let release = () => {}
    const released = new Promise<void>((resolve) => {
      release = resolve
    })
    const asked = vi.fn()
    const stage = await createStage(world, {
      requestsMax: 3,
      resolveModel: async () => {
        asked()
        await released
        return { provider: 'demo', modelId: 'demo' }
      },
    })
    const { call, token, base } = stage
    const make = (n: number) =>
      call('POST', `${base}/agents`, { token, body: { agentId: `agent-${n}`, model: 'demo/demo' } })
    const working = [make(1), make(2), make(3)]
    await vi.waitUntil(() => asked.mock.calls.length === 3, PATIENT)
    const refused = await call('GET', `${base}/agents`, { token })
    expect(refused).toMatchObject({ status: 503, body: { code: 'saturated' } })
    expect(refused.headers.get('retry-after')).toBe('1')
    expect((await call('GET', '/health')).status).toBe(200)
    // A stream has its own bound: it is refused for itself alone.
    expect((await call('GET', '/api/v1/agents/conv_1/events', { token })).body.code).not.toBe('saturated')

    release()
    expect((await Promise.all(working)).map(({ status }) => status)).toEqual([201, 201, 201])
    expect((await call('GET', `${base}/agents`, { token })).status).toBe(200)
  })

  test('with as many connections as it may answers 503 on the next, and health all the same', async () => {
    const log = pino({ level: 'silent' })
    const app = createHttpApp({ log })
    app.get('/quick', (c) => c.text('done'))
    app.get('/health', (c) => c.text('alive'))
    const server = createHttpServer({ app, log }, { port: 0, host: '127.0.0.1', connectionsMax: 2 })
    const port = await server.start()
    onTestFinished(() => server.stop({ graceMs: 0 }))
    const ask = async (path: string) => {
      const response = await fetch(`http://127.0.0.1:${port}${path}`, { headers: { connection: 'close' } })
      return { status: response.status, wait: response.headers.get('retry-after'), text: await response.text() }
    }
    const holders = await Promise.all([open(port), open(port)])
    const refused = await ask('/quick')
    expect(refused).toMatchObject({ status: 503, wait: '1' })
    expect(JSON.parse(refused.text)).toMatchObject({ code: 'saturated' })
    expect(await ask('/health')).toMatchObject({ status: 200, text: 'alive' })
    for (const socket of holders) socket.destroy()
    await vi.waitFor(async () => expect((await ask('/quick')).status).toBe(200), PATIENT)
  })
})

function open(port: number): Promise<import('node:net').Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => resolve(socket))
    socket.on('error', reject)
    onTestFinished(() => void socket.destroy())
  })
}
