import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, onTestFinished } from 'vitest'
import { sendRequest } from '../support/cluster.ts'
import { type CollectedSpan, startCollector } from '../support/collector.ts'
import { startEchoingProvider } from '../support/echoing-provider.ts'
import { followEvents } from '../support/follower.ts'
import { type Gateway, until } from '../support/gateway.ts'
import { type Programs, productionEnv, test } from '../support/programs.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('two replicas share it')

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
const CALLER = '00f067aa0ba902b7'

/** Takes webhooks, and keeps their headers. */
async function startReceiver() {
  const seen: IncomingHttpHeaders[] = []
  const server = createServer((req, res) => {
    seen.push(req.headers)
    res.end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook?secret=1`, seen }
}

/** Two replicas, of which the first has one worker. */
async function startPair(programs: Programs, more: Record<string, string>) {
  const env = {
    ...productionEnv(await programs.database()),
    ...{ WEBHOOK_ALLOWED_HOSTS: '127.0.0.1', OTEL_BSP_SCHEDULE_DELAY: '100', RUN_LEASE_SECONDS: '5' },
    ...{ PUBLIC_WEB_URL: 'https://lobu.example.com', LOG_LEVEL: 'debug' },
    ...more,
  }
  const [a, b] = await Promise.all([
    programs.serve({
      ...env,
      WORKERS_MAX: '1',
      WORKERS_BUSY_MAX: '1',
      WORKERS_WARM: '0',
      OTEL_RESOURCE_ATTRIBUTES: 'test.replica=a',
    }),
    programs.serve({ ...env, OTEL_RESOURCE_ATTRIBUTES: 'test.replica=b' }),
  ])
  await Promise.all([a.ready(), b.ready()])
  const key = (await programs.run(['bootstrap'], env)).stdout.trim()
  return { a, b, key }
}

async function open({ url }: Gateway, key: string, body: Record<string, unknown> = {}) {
  const opened = await sendRequest('POST', `${url}/api/v1/agents`, { token: key, body: { forceNew: true, ...body } })
  const { agentId, token } = opened.body as { agentId: string; token: string }
  const path = `/api/v1/agents/${agentId}`
  return {
    ...{ agentId, token },
    post: (content: string, headers: Record<string, string> = {}, more = {}) =>
      sendRequest('POST', `${url}${path}/messages`, { token, headers, body: { content, ...more } }),
    follow: (at: Gateway) => followEvents(`${at.url}${path}/events`, { token }),
  }
}

describe.each(['http/protobuf', 'grpc', 'http/json'] as const)('by %s', (protocol) => {
  test('one trace goes from the caller over both replicas to the webhook', async ({ programs }) => {
    const collector = await startCollector(protocol)
    const receiver = await startReceiver()
    const { a, b, key } = await startPair(programs, {
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
      OTEL_EXPORTER_OTLP_PROTOCOL: protocol,
      OTEL_EXPORTER_OTLP_HEADERS: 'x-collector-key=the%20key',
    })
    // The only worker of the first replica has its hands full, so the second one takes what comes next. Now and then the
    // second takes one of these, too.
    await until(async () => {
      expect((await (await open(a, key)).post('/hang')).status).toBe(200)
      return a.workers().length > 0
    }, 'the worker of the first is busy')

    const conversation = await open(a, key)
    const follower = await conversation.follow(b)
    onTestFinished(follower.stop)
    const posted = await conversation.post(
      '/tool /words 400 /delay 2',
      { traceparent: `00-${TRACE}-${CALLER}-01` },
      { webhookUrl: receiver.url },
    )
    expect(posted.body.traceparent).toMatch(new RegExp(`^00-${TRACE}-[0-9a-f]{16}-01$`))
    await follower.completed(String(posted.body.messageId))

    const named = (name: string) => collector.spans().filter((span) => span.traceId === TRACE && span.name === name)
    await until(() => named('webhook').length > 0 && named('run').length > 0, 'the trace has arrived', 60_000)
    const one = (name: string): CollectedSpan => {
      expect(named(name), name).toHaveLength(1)
      return named(name)[0]!
    }
    const request = one('POST /api/v1/agents/:id/messages')
    expect(request).toMatchObject({
      parentId: CALLER,
      kind: 'server',
      resource: { 'test.replica': 'a', 'service.name': 'lobu' },
    })
    expect(request.attributes).toMatchObject({
      'http.response.status_code': 200,
      'lobu.run.id': posted.body.runId,
      'lobu.conversation.id': conversation.agentId,
    })
    const run = one('run')
    expect(run).toMatchObject({ parentId: request.spanId, kind: 'consumer', resource: { 'test.replica': 'b' } })
    expect(run.attributes).toMatchObject({ 'lobu.run.id': posted.body.runId, 'lobu.run.outcome': 'completed' })
    for (const name of ['load', 'turn', 'conclude', 'publish', 'webhook'])
      expect(one(name).parentId, name).toBe(run.spanId)
    const turn = one('turn')
    expect(one('execute_tool current_time')).toMatchObject({ parentId: turn.spanId, failed: false })
    expect(named('save step')).toHaveLength(2)
    const calls = named('chat demo')
    expect(calls).toHaveLength(2)
    for (const call of calls) {
      expect(call).toMatchObject({ parentId: turn.spanId, kind: 'client', failed: false })
      expect(call.attributes).toMatchObject({
        'gen_ai.operation.name': 'chat',
        'gen_ai.provider.name': 'demo',
        'gen_ai.request.model': 'demo',
        'http.response.status_code': 200,
      })
      expect(call.attributes['gen_ai.usage.input_tokens']).toBeGreaterThan(0)
      expect(call.attributes['gen_ai.usage.output_tokens']).toBeGreaterThan(0)
      expect(call.endNs).toBeGreaterThan(call.startNs)
      expect(call.endNs).toBeLessThanOrEqual(turn.endNs + 5_000_000n)
    }
    const webhook = one('webhook')
    expect(webhook).toMatchObject({ kind: 'client', attributes: { 'lobu.webhook.outcome': 'delivered' } })
    expect(receiver.seen[0]!.traceparent).toBe(`00-${TRACE}-${webhook.spanId}-01`)

    // Of what was said, and where to, nothing.
    expect(collector.raw()).not.toMatch(/w1 w2|\/words|secret=1|current_time.*20\d\d-/)
    expect(collector.raw()).toContain('the key')
    for (const gateway of [a, b]) expect(gateway.stdout()).not.toContain('the key')

    // Nothing that is about the run lacks its ids.
    const lines = b.lines().filter((line) => line.runId === posted.body.runId)
    expect(lines.map((line) => line.msg)).toEqual(expect.arrayContaining(['run', 'model call']))
    for (const line of lines) {
      expect(line, String(line.msg)).toMatchObject({ traceId: TRACE, conversationId: conversation.agentId })
      expect(line.organizationId, String(line.msg)).toBeTruthy()
    }
    const called = [...a.lines(), ...b.lines()].filter((line) => line.msg === 'webhook')
    const asked = a.lines().filter((line) => line.msg === 'request' && line.traceId === TRACE)
    expect([called.length, asked.length]).toEqual([1, 1])
    expect(asked[0]).toMatchObject({ requestId: posted.headers['x-request-id'] })
    for (const line of [...called, ...asked]) {
      expect(line).toMatchObject({ traceId: TRACE, runId: posted.body.runId, conversationId: conversation.agentId })
      expect(line.organizationId).toBe(lines[0]!.organizationId)
    }
  })
})

test('spans that were not sent yet go out when the gateway stops', async ({ programs }) => {
  const collector = await startCollector('http/protobuf')
  const { a, key } = await startPair(programs, {
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
    OTEL_BSP_SCHEDULE_DELAY: '60000',
  })
  await open(a, key)
  expect(collector.spans()).toEqual([])
  a.signal('SIGTERM')
  expect(await a.exited).toMatchObject({ code: 0 })
  expect(collector.spans().map(({ name }) => name)).toContain('POST /api/v1/agents')
})

test('a collector that is not there costs one line of the log, and nobody notices', async ({ programs }) => {
  const { a, b, key } = await startPair(programs, {
    OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:9',
    OTEL_EXPORTER_OTLP_TIMEOUT: '500',
    OTEL_BSP_MAX_QUEUE_SIZE: '10',
  })
  const conversation = await open(b, key)
  const follower = await conversation.follow(a)
  onTestFinished(follower.stop)
  for (let i = 0; i < 5; i++) {
    const posted = await conversation.post('/words 20')
    await follower.completed(String(posted.body.messageId))
  }
  const warning = 'traces cannot be delivered and are dropped'
  await b.logged(warning)
  b.signal('SIGTERM')
  expect(await b.exited).toMatchObject({ code: 0 })
  expect(b.lines().filter((line) => line.msg === warning)).toHaveLength(1)
  expect(b.lines().filter((line) => line.level === 'error')).toEqual([])
})

test('what the caller does not record is not recorded, and providers of models hear nothing of a trace', async ({
  programs,
}) => {
  const collector = await startCollector('http/protobuf')
  const provider = await startEchoingProvider()
  onTestFinished(provider.stop)
  const { b, key } = await startPair(programs, {
    ...{ OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, DEFAULT_MODEL: 'openai-compatible/m' },
    ...{ OPENAI_COMPATIBLE_BASE_URL: provider.url, OPENAI_COMPATIBLE_API_KEY: 'a key of the provider' },
  })
  const conversation = await open(b, key)
  const follower = await conversation.follow(b)
  onTestFinished(follower.stop)
  const unrecorded = await conversation.post('hello', { traceparent: `00-${TRACE}-${CALLER}-00` })
  await follower.completed(String(unrecorded.body.messageId))
  const recorded = await conversation.post('hello again')
  await follower.completed(String(recorded.body.messageId))
  const call = await until(() => collector.spans().find(({ name }) => name === 'chat m'), 'the second one is recorded')
  expect(call.attributes['gen_ai.provider.name']).toBe('openai-compatible')
  expect(collector.spans().filter(({ traceId }) => traceId === TRACE)).toEqual([])
  expect(provider.headers().length).toBeGreaterThan(1)
  for (const headers of provider.headers()) expect(Object.keys(headers)).not.toContain('traceparent')
  expect(collector.raw()).not.toContain('a key of the provider')
})
