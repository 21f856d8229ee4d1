import { createRoute, z } from '@hono/zod-openapi'
import { expect, test, vi } from 'vitest'
import { PATIENT, sendRaw, serve } from '../../tests/support/http.ts'
import { JSON_BYTES_MAX, readBody } from './body.ts'
import { createRouter, type Router } from './router.ts'

const Anything = z.object({ content: z.string().optional() }).loose()
const declared = (path: string, content: Record<string, object>, required: boolean) =>
  createRoute({
    method: 'post',
    path,
    request: { body: { required, content: content as { 'application/json': { schema: typeof Anything } } } },
    responses: { 200: { description: 'What came', content: { 'application/json': { schema: z.any() } } } },
  })
const json = { 'application/json': { schema: Anything } }
const multipart = { 'multipart/form-data': { schema: { type: 'object' } } }

function routes(app: Router) {
  const router = createRouter()
    .openapi(declared('/json', json, true), (c) => c.json(c.req.valid('json'), 200))
    .openapi(declared('/optional', json, false), (c) => c.json(c.req.valid('json'), 200))
    .openapi(declared('/either', { ...json, ...multipart }, false), (c) => c.json({ read: c.req.raw.bodyUsed }, 200))
  router.post('/raw', async (c) => c.json({ bytes: (await readBody(c, { bytesMax: 10 })).toString('hex') }))
  app.route('/', router)
}

async function post(
  url: string,
  body: NonNullable<RequestInit['body']> | null,
  type: string | null = 'application/json',
) {
  const response = await fetch(url, { method: 'POST', body, headers: type === null ? {} : { 'content-type': type } })
  return { status: response.status, body: (await response.json()) as Record<string, unknown> }
}

test('JSON up to the limit is read, one byte more is 413', async () => {
  const { url } = await serve(routes)
  const fits = JSON.stringify({ content: 'x'.repeat(JSON_BYTES_MAX - 14) })
  expect(fits.length).toBe(JSON_BYTES_MAX)
  expect((await post(`${url}/json`, fits)).status).toBe(200)
  expect(await post(`${url}/json`, `${fits} `)).toMatchObject({ status: 413, body: { code: 'payload_too_large' } })
})

test('text in any script arrives as it was sent, with or without a byte order mark', async () => {
  const { url } = await serve(routes)
  const text = '{"content":"naïve 文字 🙂 \\u00e9"}'
  expect((await post(`${url}/json`, `\ufeff${text}`, 'application/json; charset=utf-8')).body).toEqual(JSON.parse(text))
})

test('bytes that are not UTF-8 are refused, not replaced', async () => {
  const { url } = await serve(routes)
  const bytes = Buffer.from([...Buffer.from('{"content":"'), 0xff, ...Buffer.from('"}')])
  const refused = await post(`${url}/json`, bytes)
  expect(refused).toMatchObject({ status: 400, body: { error: 'The request body is not valid UTF-8' } })
})

test('deeply nested JSON is refused; brackets inside of strings do not count', async () => {
  const { url } = await serve(routes)
  const nested = `{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}`
  expect(await post(`${url}/json`, nested)).toMatchObject({ status: 400, body: { code: 'invalid_request' } })
  const quoted = JSON.stringify({ content: `\\"${'['.repeat(1000)}` })
  expect((await post(`${url}/json`, quoted)).status).toBe(200)
})

test.each(['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', null])(
  'a body of type %s is 415 where JSON is expected',
  async (type) => {
    const { url } = await serve(routes)
    const bytes = new TextEncoder().encode('{"content":"hi"}')
    expect(await post(`${url}/json`, bytes, type)).toMatchObject({
      status: 415,
      body: { code: 'unsupported_media_type' },
    })
  },
)

test('a compressed body is 415', async () => {
  const { url } = await serve(routes)
  const headers = { 'content-type': 'application/json', 'content-encoding': 'gzip' }
  expect((await fetch(`${url}/json`, { method: 'POST', headers, body: 'x' })).status).toBe(415)
})

test('where a body may be left out, none and an empty one count as an empty object', async () => {
  const { url } = await serve(routes)
  expect(await post(`${url}/optional`, null, null)).toEqual({ status: 200, body: {} })
  expect(await post(`${url}/optional`, '')).toEqual({ status: 200, body: {} })
})

test('a media type beside JSON that the route declares is left unread', async () => {
  const { url } = await serve(routes)
  const passed = await post(`${url}/either`, '--x--\r\n', 'multipart/form-data; boundary=x')
  expect(passed).toEqual({ status: 200, body: { read: false } })
})

test('raw bytes are read as they are, within their own limit', async () => {
  const { url } = await serve(routes)
  expect((await post(`${url}/raw`, Buffer.from([0, 255, 10]), null)).body).toEqual({ bytes: '00ff0a' })
  expect((await post(`${url}/raw`, Buffer.alloc(11), null)).status).toBe(413)
})

test('a client that leaves in the middle of its body is not a bug in the log', async () => {
  const { port, lines } = await serve(routes)
  const head = 'POST /json HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n'
  await sendRaw(port, `${head}5\r\n{"con\r\nnot a chunk\r\n`)
  await vi.waitUntil(() => lines.length > 0, PATIENT)
  expect(lines.filter(({ level }) => level === 'error')).toEqual([])
  expect(lines).toMatchObject([{ status: 400, route: '/json' }])
})

test('without a server the same bodies are read', async () => {
  const router = createRouter()
  routes(router)
  const init = { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"content":"hi"}' }
  expect(await (await router.request('/json', init)).json()).toEqual({ content: 'hi' })
})
