import { createRoute, z } from '@hono/zod-openapi'
import { expect, test } from 'vitest'
import { sendRaw, serve } from '../../tests/support/http.ts'
import { AppError, type ErrorCode } from '../lib/errors.ts'
import { createRouter, errors, type Router } from './router.ts'

const Message = z.object({
  content: z.string().min(1),
  servers: z.record(z.string(), z.object({ ports: z.array(z.number()) })).default({}),
})
const post = createRoute({
  method: 'post',
  path: '/api/v1/messages',
  request: {
    query: z.object({ limit: z.coerce.number().max(200).default(50) }),
    body: { required: true, content: { 'application/json': { schema: Message } } },
  },
  responses: {
    200: { description: 'Taken', content: { 'application/json': { schema: z.object({ ok: z.boolean() }) } } },
    ...errors('invalid_request', 'queue_full', 'saturated', 'draining'),
  },
})

/** Whatever is thrown at `/api/v1/throw` and `/api/acme/throw`. */
function throwing(error: unknown) {
  return (app: Router) => {
    const handler = () => {
      throw error
    }
    app.get('/api/v1/throw', handler)
    app.get('/api/acme/throw', handler)
    app.route(
      '/',
      createRouter().openapi(post, (c) => c.json({ ok: true }, 200)),
    )
  }
}

async function answer(url: string, init?: RequestInit) {
  const response = await fetch(url, init)
  return {
    status: response.status,
    headers: response.headers,
    body: (await response.json()) as Record<string, unknown>,
  }
}

test('an error of the agent API says success: false, elsewhere it carries its details', async () => {
  const { url } = await serve(throwing(new AppError('conflict', 'Taken', { details: { by: 'you' } })))
  const agent = await answer(`${url}/api/v1/throw`)
  expect(agent).toMatchObject({ status: 409, body: { success: false, error: 'Taken', code: 'conflict' } })
  expect(Object.keys(agent.body)).toEqual(['success', 'error', 'code'])
  expect((await answer(`${url}/lobu/api/v1/throw`)).body).toEqual(agent.body)
  const elsewhere = await answer(`${url}/api/acme/throw`)
  expect(elsewhere).toMatchObject({ status: 409, body: { error: 'Taken', code: 'conflict', details: { by: 'you' } } })
  expect(elsewhere.body).not.toHaveProperty('success')
})

test.each<[ErrorCode, number]>([
  ['unauthenticated', 401],
  ['forbidden', 403],
  ['not_found', 404],
  ['conversation_busy', 409],
  ['precondition_failed', 412],
  ['idempotency_mismatch', 422],
  ['queue_full', 429],
  ['saturated', 503],
  ['model_unavailable', 400],
])('%s is answered with %i', async (code, status) => {
  const { url } = await serve(throwing(new AppError(code, 'No')))
  const refused = await answer(`${url}/api/v1/throw`)
  expect(refused).toMatchObject({ status, body: { code } })
  expect(refused.headers.has('retry-after')).toBe(status === 429 || status === 503)
  expect(refused.headers.has('www-authenticate')).toBe(status === 401)
})

test('an error that names its own time to come back keeps it', async () => {
  const { url } = await serve(throwing(new AppError('saturated', 'Full', { retryAfterSeconds: 7.2 })))
  expect((await answer(`${url}/api/v1/throw`)).headers.get('retry-after')).toBe('8')
})

test('a bug is a bare 500 with the request id, and is logged once with where it happened', async () => {
  const { url, lines } = await serve(throwing(new TypeError('secret is hunter2')))
  const headers = { 'x-request-id': 'abc-123' }
  const { status, body } = await answer(`${url}/api/v1/throw`, { headers })
  expect(status).toBe(500)
  expect(body).toEqual({ success: false, error: expect.any(String), code: 'internal', requestId: 'abc-123' })
  expect(JSON.stringify(body)).not.toContain('hunter2')
  const logged = lines.filter((line) => line.level === 'error')
  expect(logged).toHaveLength(1)
  expect(logged[0]).toMatchObject({ requestId: 'abc-123', err: 'TypeError: secret is hunter2' })
  expect(logged[0]).toHaveProperty('at.0', expect.stringMatching(/^at .*errors\.test\.ts/))
})

test('something thrown that is no error is a 500 too', async () => {
  const { url } = await serve(throwing('a string'))
  expect(await answer(`${url}/api/v1/throw`)).toMatchObject({ status: 500, body: { code: 'internal' } })
})

test.each([
  'CONNECT_TIMEOUT',
  'CONNECT_CLOSED',
  'ECONNREFUSED',
  'CONNECTION_CLOSED',
  '57P01',
  '57P03',
  '53300',
  '25006',
  '08006',
])('an unreachable database (%s) is 503, wrapped by drizzle or not', async (code) => {
  const plain = Object.assign(new Error('connect failed'), { code })
  for (const error of [plain, new Error('Failed query: select 1\nparams: hunter2', { cause: plain })]) {
    const { url, lines } = await serve(throwing(error))
    const refused = await answer(`${url}/api/v1/throw`)
    expect(refused).toMatchObject({ status: 503, body: { code: 'database_unavailable' } })
    expect(refused.headers.get('retry-after')).toBe('1')
    expect(lines.filter((line) => line.level === 'error')).toEqual([])
    expect(JSON.stringify(lines)).not.toContain('hunter2')
  }
})

test.each(['57014', '25P03', '40P01', '40001'])(
  'what the database gave up so that others go on (%s) is 503: to try again helps',
  async (code) => {
    const { url, lines } = await serve(throwing(Object.assign(new Error('canceling statement'), { code })))
    const refused = await answer(`${url}/api/v1/throw`)
    expect(refused).toMatchObject({ status: 503, body: { code: 'database_unavailable' } })
    expect(refused.headers.get('retry-after')).toBe('1')
    expect(lines.filter(({ level }) => level === 'warn')).toMatchObject([{ err: expect.stringContaining(code) }])
  },
)

test('a refused connection to somewhere else is not blamed on the database', async () => {
  const cause = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' })
  const { url } = await serve(throwing(new TypeError('fetch failed', { cause })))
  expect((await answer(`${url}/api/v1/throw`)).body.code).toBe('internal')
})

test('a violated unique constraint that nobody translated is a bug', async () => {
  const { url } = await serve(throwing(Object.assign(new Error('duplicate key'), { code: '23505' })))
  expect((await answer(`${url}/api/v1/throw`)).status).toBe(500)
})

test('a validation failure names each field by its path', async () => {
  const { url } = await serve(throwing(undefined))
  const body = JSON.stringify({ content: '', servers: { files: { ports: [1, 'x'] } } })
  const headers = { 'content-type': 'application/json' }
  const refused = await answer(`${url}/api/v1/messages`, { method: 'POST', headers, body })
  expect(refused).toMatchObject({ status: 400, body: { success: false, code: 'invalid_request' } })
  expect(refused.body.error).toMatch(/content: .*; servers\.files\.ports\[1\]: /)
  const query = await answer(`${url}/api/v1/messages?limit=999`, { method: 'POST', headers, body: '{"content":"hi"}' })
  expect(query.body.error).toMatch(/^query limit: /)
})

test('broken JSON is 400', async () => {
  const { url } = await serve(throwing(undefined))
  const init = { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"content":' }
  expect(await answer(`${url}/api/v1/messages`, init)).toMatchObject({ status: 400, body: { code: 'invalid_request' } })
})

test('an unknown path is 404 in JSON, a wrong method 405 with Allow', async () => {
  const { url } = await serve(throwing(undefined))
  expect(await answer(`${url}/nothing`)).toMatchObject({ status: 404, body: { code: 'not_found' } })
  expect(await answer(`${url}/api/v1/nothing`)).toMatchObject({ status: 404, body: { success: false } })
  const wrong = await answer(`${url}/api/v1/throw`, { method: 'DELETE' })
  expect(wrong).toMatchObject({ status: 405, body: { success: false, code: 'method_not_allowed' } })
  expect(wrong.headers.get('allow')).toBe('GET, HEAD')
  expect((await fetch(`${url}/api/v1/messages`, { method: 'PUT' })).headers.get('allow')).toBe('POST')
})

test('`v1` is no organization: what the agent API lacks is not promised by the organization API', async () => {
  const { url } = await serve((app) => {
    app.get('/api/v1/agents/:id', (c) => c.json({}))
    app.all('/api/v1/*', (c) => c.notFound())
    app.patch('/api/:org/agents/:agentId', (c) => c.json({}))
  })
  for (const method of ['PATCH', 'POST']) {
    const wrong = await answer(`${url}/api/v1/agents/a`, { method })
    expect(wrong).toMatchObject({ status: 405, body: { success: false, code: 'method_not_allowed' } })
    expect(wrong.headers.get('allow')).toBe('GET, HEAD')
  }
  expect((await answer(`${url}/api/acme/agents/a`, { method: 'POST' })).headers.get('allow')).toBe('PATCH')
})

test('an expectation that cannot be met is refused in JSON', async () => {
  const { port } = await serve(throwing(undefined))
  const received = await sendRaw(
    port,
    'GET /api/v1/throw HTTP/1.1\r\nhost: x\r\nexpect: a-miracle\r\nconnection: close\r\n\r\n',
  )
  expect(received).toMatch(/^HTTP\/1.1 417 /)
  expect(JSON.parse(received.split('\r\n\r\n')[1] ?? '')).toMatchObject({ code: 'invalid_request' })
})

test.each([
  ['a malformed Host header', 'GET / HTTP/1.1\r\nhost: a/b\r\nconnection: close\r\n\r\n', 400],
  ['what is not HTTP', 'hello\r\n\r\n', 400],
  ['headers over the limit', `GET / HTTP/1.1\r\nhost: x\r\nx-long: ${'x'.repeat(40_000)}\r\n\r\n`, 431],
])('%s is refused in JSON', async (_what, text, status) => {
  const { port } = await serve(throwing(undefined))
  const received = await sendRaw(port, text)
  expect(received).toMatch(new RegExp(`^HTTP/1.1 ${status} `))
  expect(JSON.parse(received.split('\r\n\r\n')[1] ?? '')).toMatchObject({ code: 'invalid_request' })
})

test('errors() documents each status once, with all its codes', () => {
  const responses = errors('draining', 'saturated', 'not_found')
  expect(Object.keys(responses)).toEqual(['404', '503'])
  expect(responses[503].description).toMatch(/`draining`.*`saturated`/)
})
