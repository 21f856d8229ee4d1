import { get } from 'node:http'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { expect, test, vi } from 'vitest'
import { PATIENT, serve } from '../../../tests/support/http.ts'
import { addLogFields } from '../request-log.ts'
import type { Router } from '../router.ts'

function routes(app: Router) {
  app.get('/api/v1/agents/:id', (c) => {
    addLogFields(c, { conversationId: c.req.param('id') })
    return c.json({ traceparent: c.var.traceparent ?? null, requestId: c.var.requestId })
  })
  app.get('/health', (c) => c.json({}))
  app.get('/page', (c) => c.html('<p>', 200, { 'content-security-policy': "default-src 'self'" }))
  app.get('/api/v1/agents/:id/events', (c) => {
    c.env.outgoing.writeHead(200, { ...c.get('commonHeaders'), 'content-type': 'text/event-stream' })
    c.env.outgoing.write(': hello\n\n')
    return RESPONSE_ALREADY_SENT
  })
}

const requests = (lines: Record<string, unknown>[]) => lines.filter(({ msg }) => msg === 'request')

test('a request is one line with its route pattern, never its query or credential', async () => {
  const { url, lines } = await serve(routes)
  await fetch(`${url}/lobu/api/v1/agents/conv_1?token=hunter2`, { headers: { authorization: 'Bearer hunter2' } })
  expect(requests(lines)).toHaveLength(1)
  expect(requests(lines)[0]).toMatchObject({
    method: 'GET',
    route: '/api/v1/agents/:id',
    status: 200,
    conversationId: 'conv_1',
    requestId: expect.stringMatching(/^req_/),
    ms: expect.any(Number),
  })
  expect(JSON.stringify(lines)).not.toContain('hunter2')
})

test('the line names the endpoint although middleware for its path was mounted later, and no raw path where there is none', async () => {
  const { url, lines } = await serve((app) => {
    routes(app)
    app.use('/api/*', (_c, next) => next())
  })
  await fetch(`${url}/api/v1/agents/conv_1`)
  await fetch(`${url}/made/up/path`)
  expect(requests(lines).map(({ route }) => route)).toEqual(['/api/v1/agents/:id', '/*'])
})

test('an error leaves its code in the line', async () => {
  const { url, lines } = await serve(routes)
  await fetch(`${url}/nothing?a=b`)
  expect(requests(lines)[0]).toMatchObject({ status: 404, code: 'not_found' })
})

test('probes are logged at debug only', async () => {
  const { url, lines } = await serve(routes)
  await fetch(`${url}/health`)
  expect(requests(lines)[0]).toMatchObject({ level: 'debug' })
})

test('an event stream is a line when it opens and one when it ends', async () => {
  const { url, lines } = await serve(routes)
  const req = get(`${url}/api/v1/agents/conv_1/events`)
  await new Promise((resolve) => req.once('response', resolve))
  expect(lines.map(({ msg }) => msg)).toEqual(['stream opened'])
  req.destroy()
  await vi.waitUntil(() => lines.length === 2, PATIENT)
  const { requestId } = lines[0]!
  expect(requestId).toMatch(/^req_/)
  expect(lines[1]).toMatchObject({ msg: 'stream closed', requestId, route: '/api/v1/agents/:id/events', status: 200 })
})

test('the request id is the caller’s when it is a sane one, and is sent back', async () => {
  const { url } = await serve(routes)
  const ask = async (id: string) => {
    const response = await fetch(`${url}/api/v1/agents/a`, { headers: { 'x-request-id': id } })
    const { requestId } = (await response.json()) as { requestId: string }
    expect(response.headers.get('x-request-id')).toBe(requestId)
    return requestId
  }
  expect(await ask('trace:1.2-3_x')).toBe('trace:1.2-3_x')
  expect(await ask('a b')).toMatch(/^req_/)
  expect(await ask('x'.repeat(129))).toMatch(/^req_/)
})

test('a well-formed traceparent is kept, any other is not', async () => {
  const { url } = await serve(routes)
  const ask = async (traceparent: string) => {
    const response = await fetch(`${url}/api/v1/agents/a`, { headers: { traceparent } })
    return ((await response.json()) as { traceparent: string | null }).traceparent
  }
  const good = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
  expect(await ask(good)).toBe(good)
  expect(await ask('00-00000000000000000000000000000000-b7ad6b7169203331-01')).toBeNull()
  expect(await ask('nonsense')).toBeNull()
})

test('every response has the security headers, streams and errors too, and a page may set its own policy', async () => {
  const { url } = await serve(routes)
  for (const path of ['/api/v1/agents/a', '/nothing', '/api/v1/agents/a/events']) {
    const response = await fetch(url + path)
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'x-content-type-options': 'nosniff',
      'referrer-policy': 'no-referrer',
      'content-security-policy': "frame-ancestors 'none'",
    })
    await response.body?.cancel()
  }
  expect((await fetch(`${url}/page`)).headers.get('content-security-policy')).toBe("default-src 'self'")
})
