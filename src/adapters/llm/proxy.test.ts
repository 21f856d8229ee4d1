import { once } from 'node:events'
import { constants } from 'node:http2'
import { text } from 'node:stream/consumers'
import { afterEach, describe, expect, test, vi } from 'vitest'
import {
  ask,
  createCleanup,
  errorOf,
  PLACEHOLDER,
  post,
  REAL_KEY,
  startRawUpstream,
  startRig,
  startUpstream,
  untilStill,
} from './test-rig.ts'

const cleanup = createCleanup()
afterEach(() => cleanup.run())

const MESSAGES = '/model/anthropic/messages'
const MIB = 1024 * 1024

function startAnthropic(baseUrl: string) {
  return startRig(cleanup, 'anthropic', { anthropic: { baseUrl, apiKey: REAL_KEY } })
}

test('the vendor sees the real key, and of the worker only what is on the list', async () => {
  const { baseUrl, seen } = await startUpstream(cleanup, (_, res) => {
    res.writeHead(200, {
      'content-type': 'application/json',
      'request-id': 'req_1',
      'set-cookie': 'tracking=1',
      'x-powered-by': 'vendor',
    })
    res.end('{"ok":true}')
  })
  const { session } = await startAnthropic(baseUrl)
  const reply = await ask(session, `${MESSAGES}?key=${PLACEHOLDER}&beta=true`, {
    'x-api-key': PLACEHOLDER,
    authorization: `Bearer ${PLACEHOLDER}`,
    cookie: 'a=b',
    'anthropic-version': '2023-06-01',
    'x-run-id': 'run-1',
    'accept-encoding': 'gzip',
    body: '{"model":"m"}',
  })
  expect(reply).toMatchObject({ status: 200, body: '{"ok":true}' })
  expect(reply.headers).toMatchObject({ 'content-type': 'application/json', 'request-id': 'req_1' })
  expect(Object.keys(reply.headers)).not.toEqual(expect.arrayContaining(['set-cookie']))
  expect(Object.keys(reply.headers)).not.toEqual(expect.arrayContaining(['x-powered-by']))

  const [request] = seen
  expect(request).toMatchObject({ method: 'POST', url: '/v1/messages', body: '{"model":"m"}' })
  expect(request?.headers).toMatchObject({ 'x-api-key': REAL_KEY, 'anthropic-version': '2023-06-01' })
  expect(request?.headers).toMatchObject({ 'accept-encoding': 'identity' })
  expect(JSON.stringify(request)).not.toContain(PLACEHOLDER)
  for (const name of ['authorization', 'cookie', 'x-run-id']) expect(request?.headers).not.toHaveProperty(name)
})

test('a server without a key is asked without credentials, and a query in its base URL stays', async () => {
  const { baseUrl, seen } = await startUpstream(cleanup, (_, res) => res.end('{}'))
  const rig = await startRig(cleanup, 'openai-compatible', {
    'openai-compatible': { baseUrl: `${baseUrl}/?api-version=2` },
  })
  const path = '/model/openai-compatible/chat/completions'
  await ask(rig.session, path, { authorization: `Bearer ${PLACEHOLDER}` })
  expect(seen[0]?.url).toBe('/v1/chat/completions?api-version=2')
  expect(seen[0]?.headers).not.toHaveProperty('authorization')
})

test.each([
  [`?alt=sse&key=${PLACEHOLDER}`, '?alt=sse'],
  ['?alt=media', ''],
  ['', ''],
])('of the query %s goes on %s', async (asked, passed) => {
  const { baseUrl, seen } = await startUpstream(cleanup, (_, res) => res.end('{}'))
  const rig = await startRig(cleanup, 'google', { google: { baseUrl, apiKey: REAL_KEY } })
  await ask(rig.session, `/model/google/models/gemini-2.5-flash:streamGenerateContent${asked}`)
  expect(seen[0]?.url).toBe(`/v1/models/gemini-2.5-flash:streamGenerateContent${passed}`)
})

test('an answer streams: the worker reads its beginning while the vendor still writes', async () => {
  let finish = () => {}
  const { baseUrl } = await startUpstream(cleanup, (_, res) => {
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    res.write('data: 1\n\n')
    finish = () => res.end('data: 2\n\n')
  })
  const { session } = await startAnthropic(baseUrl)
  const stream = post(session, MESSAGES).end('{}')
  const [first] = await once(stream.setEncoding('utf8'), 'data')
  expect(first).toBe('data: 1\n\n')
  finish()
  expect(await text(stream)).toBe('data: 2\n\n')
})

test("headers reach the worker before the vendor's first word", async () => {
  const { baseUrl } = await startUpstream(cleanup, (_, res) => {
    res.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
  })
  const { session } = await startAnthropic(baseUrl)
  const stream = post(session, MESSAGES).end('{}')
  const [headers] = await once(stream, 'response')
  expect(headers[':status']).toBe(200)
})

describe('an abort closes the call to the vendor', () => {
  test('before it has answered', async () => {
    const closed = Promise.withResolvers<void>()
    const { baseUrl, seen } = await startUpstream(cleanup, (_, res) => res.on('close', closed.resolve))
    const { session, lines } = await startAnthropic(baseUrl)
    const stream = post(session, MESSAGES).end('{}')
    await vi.waitFor(() => expect(seen).toHaveLength(1))
    stream.close(constants.NGHTTP2_CANCEL)
    await closed.promise
    await vi.waitFor(() => expect(lines).toMatchObject([{ level: 20, aborted: true }]))
  })

  test('in the middle of its answer', async () => {
    const closed = Promise.withResolvers<void>()
    const { baseUrl } = await startUpstream(cleanup, (_, res) => {
      res.on('close', closed.resolve).writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n')
    })
    const { session } = await startAnthropic(baseUrl)
    const stream = post(session, MESSAGES).end('{}')
    await once(stream, 'data')
    stream.close(constants.NGHTTP2_CANCEL)
    await closed.promise
  })

  test('in the middle of the question', async () => {
    const closed = Promise.withResolvers<void>()
    const baseUrl = await startRawUpstream(cleanup, (req) => {
      req.once('data', () => stream.close(constants.NGHTTP2_CANCEL))
      req.on('close', closed.resolve)
    })
    const { session } = await startAnthropic(baseUrl)
    const stream = post(session, MESSAGES)
    stream.write('{"messages":')
    await closed.promise
  })

  test('when the worker and its whole session are gone', async () => {
    const closed = Promise.withResolvers<void>()
    const { baseUrl, seen } = await startUpstream(cleanup, (_, res) => res.on('close', closed.resolve))
    const { session } = await startAnthropic(baseUrl)
    post(session, MESSAGES)
      .on('error', () => {})
      .end('{}')
    await vi.waitFor(() => expect(seen).toHaveLength(1))
    session.destroy()
    await closed.promise
  })
})

test('a worker that does not read holds the vendor back', async () => {
  const total = 128 * MIB
  let written = 0
  const { baseUrl } = await startUpstream(cleanup, async (_, res) => {
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    const chunk = Buffer.alloc(64 * 1024, 'x')
    for (; written < total; written += chunk.length) {
      if (!res.write(chunk)) await once(res, 'drain').catch(() => {})
    }
    res.end()
  })
  const { session } = await startAnthropic(baseUrl)
  const stream = post(session, MESSAGES).end('{}')
  await once(stream, 'response')
  expect(await untilStill(() => written)).toBeLessThan(32 * MIB)
  let received = 0
  for await (const chunk of stream) received += chunk.length
  expect(received).toBe(total)
})

describe('refusals', () => {
  test('a redirect is not followed, and the key stays here', async () => {
    const elsewhere = await startUpstream(cleanup, (_, res) => res.end('{}'))
    const { baseUrl } = await startUpstream(cleanup, (_, res) => {
      res.writeHead(307, { location: `${elsewhere.baseUrl}/messages` }).end('moved')
    })
    const { session } = await startAnthropic(baseUrl)
    const reply = await ask(session, MESSAGES)
    expect(reply.status).toBe(502)
    expect(reply.headers).not.toHaveProperty('location')
    expect(errorOf(reply.body).message).toContain('ANTHROPIC_BASE_URL')
    expect(elsewhere.seen).toEqual([])
  })

  test('another provider than the one of the run', async () => {
    const { baseUrl, seen } = await startUpstream(cleanup, (_, res) => res.end('{}'))
    const settings = { baseUrl, apiKey: REAL_KEY }
    const rig = await startRig(cleanup, 'anthropic', { anthropic: settings, openai: settings })
    for (const path of ['/model/openai/responses', '/model/demo/chat/completions', '/model/none/messages']) {
      const reply = await ask(rig.session, path)
      expect(reply.status).toBe(403)
      expect(errorOf(reply.body)).toMatchObject({ type: 'forbidden' })
    }
    expect(seen).toEqual([])
  })

  test('an endpoint that answers no prompts', async () => {
    const { baseUrl, seen } = await startUpstream(cleanup, (_, res) => res.end('{}'))
    const { session } = await startAnthropic(baseUrl)
    const reply = await ask(session, '/model/anthropic/files')
    expect(reply.status).toBe(404)
    expect(errorOf(reply.body)).toMatchObject({ type: 'not_found' })
    expect(seen).toEqual([])
  })

  test.each([
    ['anthropic', '/messages', 'ANTHROPIC_API_KEY'],
    ['openai', '/responses', 'OPENAI_API_KEY'],
    ['google', '/models/gemini-2.5-flash:generateContent', 'GOOGLE_GENERATIVE_AI_API_KEY'],
    ['openai-compatible', '/chat/completions', 'OPENAI_COMPATIBLE_BASE_URL'],
  ])('%s without its settings', async (provider, path, variable) => {
    const { session } = await startRig(cleanup, provider, {})
    const reply = await ask(session, `/model/${provider}${path}`)
    expect(reply.status).toBe(503)
    expect(errorOf(reply.body)).toMatchObject({ type: 'model_unavailable', message: expect.stringContaining(variable) })
  })

  test('an upstream that nobody listens on', async () => {
    const { session, lines } = await startAnthropic('http://127.0.0.1:1/v1')
    const reply = await ask(session, MESSAGES)
    expect(reply.status).toBe(502)
    expect(errorOf(reply.body)).toMatchObject({ type: 'upstream_unreachable' })
    expect(lines).toMatchObject([{ level: 40, status: 502, error: expect.stringContaining('ECONNREFUSED') }])
  })

  test('an upstream that hangs up without a word', async () => {
    const baseUrl = await startRawUpstream(cleanup, (req) => req.socket.destroy())
    const { session } = await startAnthropic(baseUrl)
    expect(await ask(session, MESSAGES)).toMatchObject({ status: 502 })
  })
})

test("a vendor's own error passes, with its advice when to come again", async () => {
  const { baseUrl } = await startUpstream(cleanup, (_, res) => {
    res.writeHead(429, { 'content-type': 'application/json', 'retry-after': '7' })
    res.end('{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}')
  })
  const { session } = await startAnthropic(baseUrl)
  const reply = await ask(session, MESSAGES)
  expect(reply).toMatchObject({ status: 429, headers: { 'retry-after': '7' } })
  expect(errorOf(reply.body).message).toBe('slow down')
})

test('an answer that breaks off does not look whole', async () => {
  const { baseUrl } = await startUpstream(cleanup, (_, res) => {
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    res.write('data: 1\n\n', () => res.destroy())
  })
  const { session, lines } = await startAnthropic(baseUrl)
  await expect(ask(session, MESSAGES)).rejects.toThrow()
  await vi.waitFor(() => expect(lines).toMatchObject([{ level: 40, status: 200 }]))
})

test('calls in a row share a connection', async () => {
  const ports = new Set<number | undefined>()
  const baseUrl = await startRawUpstream(cleanup, (req, res) => {
    ports.add(req.socket.remotePort)
    req.resume().on('end', () => res.end('{}'))
  })
  const { session } = await startAnthropic(baseUrl)
  for (let at = 0; at < 5; at++) await ask(session, MESSAGES)
  expect(ports.size).toBe(1)
})

test('a call leaves one line, without key, text or query', async () => {
  const { baseUrl } = await startUpstream(cleanup, (_, res) => res.end('the secret answer'))
  const { session, lines } = await startAnthropic(baseUrl)
  await ask(session, `${MESSAGES}?token=in-query`, { 'x-api-key': PLACEHOLDER, body: 'the secret question' })
  await ask(session, '/model/anthropic/unknown-secret-path')
  await vi.waitFor(() => expect(lines).toHaveLength(2))
  expect(lines[0]).toMatchObject({ runId: 'run-1', fence: 7, provider: 'anthropic', path: '/messages', status: 200 })
  expect(lines[0]).toMatchObject({ level: 20, bytes: 'the secret answer'.length, ms: expect.any(Number) })
  expect(JSON.stringify(lines)).not.toMatch(/secret|in-query|real-key|placeholder/)
})

test('close cuts what is under way, refuses what comes, and may be called twice', async () => {
  const closed = Promise.withResolvers<void>()
  const { baseUrl } = await startUpstream(cleanup, (_, res) => {
    res.on('close', closed.resolve).writeHead(200).flushHeaders()
  })
  const { proxy, session } = await startAnthropic(baseUrl)
  const stream = post(session, MESSAGES).end('{}')
  await once(stream, 'response')
  const cut = once(stream, 'error')
  await Promise.all([proxy.close(), proxy.close(), closed.promise, cut])
  const reply = await ask(session, MESSAGES)
  expect(reply.status).toBe(503)
  expect(errorOf(reply.body)).toMatchObject({ type: 'draining' })
})

test('models says what is configured, and what is missing', async () => {
  const settings = { baseUrl: 'http://models.test/v1' }
  const providers = { openai: { ...settings, apiKey: REAL_KEY }, 'openai-compatible': settings, google: settings }
  const { proxy } = await startRig(cleanup, 'demo', providers)
  expect(proxy.models()).toEqual([
    {
      provider: 'anthropic',
      available: false,
      defaultModel: 'claude-sonnet-4-5',
      missingVariable: 'ANTHROPIC_API_KEY',
    },
    { provider: 'openai', available: true, defaultModel: 'gpt-5-mini', missingVariable: null },
    {
      provider: 'google',
      available: false,
      defaultModel: 'gemini-2.5-flash',
      missingVariable: 'GOOGLE_GENERATIVE_AI_API_KEY',
    },
    { provider: 'openai-compatible', available: true, defaultModel: null, missingVariable: null },
    { provider: 'demo', available: true, defaultModel: 'demo', missingVariable: null },
  ])
})
