import { describe, expect } from 'vitest'
import { findFaults, type Seen } from '../support/checker.ts'
import { type Answer, type Cluster, test } from '../support/cluster.ts'
import { type Follower, followEvents, streamedText } from '../support/follower.ts'
import { until } from '../support/gateway.ts'
import { sendRaw } from '../support/http.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('three replicas share it')

type Accepted = { messageId: string; runId: string }

/** A conversation whose stream is open. */
async function openFollowed(cluster: Cluster, body?: Record<string, unknown>) {
  const conversation = await cluster.open(body)
  return { conversation, follower: await conversation.follow() }
}

/** What is wrong with all that this client saw. */
function faultsOf(follower: Follower, acknowledged: Seen['acknowledged']) {
  return findFaults([{ name: 'it', acknowledged, events: follower.events(), faults: follower.faults, after: 0 }])
}

async function expectNoConversation(cluster: Cluster, body: Record<string, unknown>, code: string) {
  const refused = await cluster.call('POST', '/api/v1/agents', { body })
  expect(refused, JSON.stringify(body)).toMatchObject({ status: 400, body: { success: false, code } })
  expect(refused.headers['retry-after']).toBeUndefined()
}

const readRun = async (cluster: Cluster, runId: string) => (await cluster.call('GET', `/api/v1/runs/${runId}`)).body

const fifty = (send: (index: number) => Promise<Answer>) => Promise.all(Array.from({ length: 50 }, (_, at) => send(at)))

describe('a message that is sent again', () => {
  test.for(['enqueue', 'steer', 'interrupt', 'reject'])(
    'fifty times at once over all replicas, with onBusy %s, starts one run and has one answer',
    async (onBusy, { cluster }) => {
      const { conversation, follower } = await openFollowed(cluster)
      const body = { messageId: `m-${onBusy}`, content: '/echo once /words 20 /delay 10', onBusy }
      const answers = await fifty(() => conversation.post(body))
      expect(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size, answers[0]?.text).toBe(1)
      expect(answers[0]?.status).toBe(200)
      await follower.completed(body.messageId)
      // A second run would come next in the order of the conversation.
      const last = await conversation.send('/echo last')
      await follower.completed(last.messageId)
      const once = { messageId: body.messageId, marker: 'once' }
      expect(faultsOf(follower, [once, { ...last, answer: 'last' }])).toEqual([])
      await follower.stop()
    },
  )

  test('with another body is refused, on every replica, and changes nothing', async ({ cluster }) => {
    const { conversation, follower } = await openFollowed(cluster)
    const first = await conversation.send('/echo one', { messageId: 'same' })
    const changes = [
      { content: '/echo two' },
      { onBusy: 'steer' },
      { webhookUrl: 'https://example.com/' },
      { platform: 'x' },
    ]
    for (const gateway of cluster.replicas) {
      for (const change of changes) {
        const body = { messageId: 'same', content: '/echo one', ...change }
        const answer = await conversation.post(body, { at: gateway.url })
        expect(answer).toMatchObject({ status: 422, body: { success: false, code: 'idempotency_mismatch' } })
      }
    }
    const again = await conversation.post({ messageId: 'same', content: '/echo one' })
    expect(again.body).toMatchObject({ runId: first.runId })
    await follower.completed('same')
    expect(faultsOf(follower, [{ messageId: 'same', answer: 'one' }])).toEqual([])
    await follower.stop()
  })

  test('under an Idempotency-Key starts one run; the same key elsewhere is another message', async ({ cluster }) => {
    const { conversation, follower } = await openFollowed(cluster)
    const call = { headers: { 'idempotency-key': 'order 66 / lemons' } }
    const answers = await fifty(() => conversation.post('/echo keyed', call))
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1)
    const mismatch = await conversation.post('/echo other', call)
    expect(mismatch).toMatchObject({ status: 422, body: { code: 'idempotency_mismatch' } })
    const other = await (await cluster.open()).post('/echo elsewhere', call)
    expect(other.status).toBe(200)
    expect(other.body.runId).not.toBe(answers[0]?.body.runId)
    await follower.completed(String(answers[0]?.body.messageId))
    await follower.stop()
  })
})

describe('a message that arrives while another is answered', () => {
  const LONG = '/echo long /words 100 /delay 20'

  async function startLong(cluster: Cluster) {
    const { conversation, follower } = await openFollowed(cluster)
    const first = await conversation.send(LONG)
    await follower.streamed(first.messageId, 5)
    return { conversation, follower, first }
  }

  test('waits its turn by default', async ({ cluster }) => {
    const { conversation, follower, first } = await startLong(cluster)
    const second = await conversation.send('/echo second')
    const third = await conversation.send('/echo third')
    expect((await readRun(cluster, third.runId)).status).toBe('queued')
    await follower.completed(third.messageId)
    const said = [
      { ...first, marker: 'long' },
      { ...second, answer: 'second' },
      { ...third, answer: 'third' },
    ]
    expect(faultsOf(follower, said)).toEqual([])
    await follower.stop()
  })

  test('is refused where it asked for that, and starts nothing', async ({ cluster }) => {
    const { conversation, follower, first } = await startLong(cluster)
    const refused = await conversation.post({ content: '/echo no', onBusy: 'reject', messageId: 'later' })
    expect(refused).toMatchObject({ status: 409, body: { success: false, code: 'conversation_busy' } })
    await follower.completed(first.messageId)
    const accepted = await conversation.send('/echo yes', { onBusy: 'reject', messageId: 'later' })
    await follower.completed('later')
    expect(
      faultsOf(follower, [
        { ...first, marker: 'long' },
        { ...accepted, answer: 'yes' },
      ]),
    ).toEqual([])
    await follower.stop()
  })

  test('takes its place where it asked to interrupt', async ({ cluster }) => {
    const { conversation, follower, first } = await startLong(cluster)
    const waiting = await conversation.send('/echo waiting')
    const second = await conversation.send('/echo now', { onBusy: 'interrupt' })
    const acknowledgedAt = Date.now()
    await follower.completed(second.messageId)
    const ended = (await readRun(cluster, first.runId)).status
    expect(ended).toBe('cancelled')
    expect((await readRun(cluster, waiting.runId)).status).toBe('cancelled')
    expect(streamedText(follower.events(), second.messageId)).toBe('now')
    // What was said before may still be on its way to the client; nothing was said afterwards.
    const late = follower.events().filter(({ name, data }) => name === 'output' && data.messageId === first.messageId)
    expect(late.filter(({ data }) => data.timestamp > acknowledgedAt)).toEqual([])
    await follower.stop()
  })

  test('joins the turn at its next step where it asked to steer', async ({ cluster }) => {
    const { conversation, follower } = await openFollowed(cluster)
    const first = await conversation.send('/tools 40 /echo first')
    await follower.until(({ name }) => name === 'tool-use', 'a tool call')
    const steer = await conversation.send('/echo steered', { onBusy: 'steer' })
    await follower.completed(steer.messageId)
    await follower.completed(first.messageId)
    const ends = follower.events().filter(({ name }) => name === 'complete')
    expect(ends.map(({ data }) => data.messageId)).toEqual([first.messageId, steer.messageId])
    for (const { data } of ends) {
      expect(data.processedMessageIds).toEqual([first.messageId, steer.messageId])
      expect(data.finalText).toBe('steered')
    }
    await follower.stop()
  })
})

describe('files', () => {
  test('of a multipart message reach the model, and its fields count as in JSON', async ({ cluster }) => {
    const { conversation, follower } = await openFollowed(cluster)
    const form = new FormData()
    form.set('content', '/history')
    form.set('messageId', 'with-files')
    form.append('files', new File(['40 lemons'], 'cargo.txt', { type: 'text/plain' }))
    form.append('files', new File([new Uint8Array(4096)], 'photo.bin', { type: 'application/octet-stream' }))
    const send = () => {
      const request = new Request('http://localhost', { method: 'POST', body: form })
      return request.arrayBuffer().then((bytes) => {
        const headers = { 'content-type': request.headers.get('content-type')! }
        return conversation.post('', { body: undefined, raw: Buffer.from(bytes), headers })
      })
    }
    const first = await send()
    expect(first).toMatchObject({ status: 200, body: { messageId: 'with-files' } })
    // The boundary differs, the message does not.
    expect((await send()).text).toBe(first.text)
    const { data } = await follower.completed('with-files')
    expect(data.finalText).toContain('cargo.txt')
    expect(data.finalText).toContain('40 lemons')
    await follower.stop()
  })
})

describe('what was said', () => {
  test('is in history, stats, status and the run, the same on every replica', async ({ cluster }) => {
    const { conversation, follower } = await openFollowed(cluster, { userId: 'ada' })
    const sent: Accepted[] = []
    for (let at = 1; at <= 3; at++) {
      sent.push(await conversation.send(`/echo answer ${at}`))
      await follower.completed(sent.at(-1)!.messageId)
    }
    const path = `/api/v1/agents/${conversation.id}`
    for (const { url: at } of cluster.replicas) {
      const get = async (rest: string) =>
        (await cluster.call('GET', `${path}${rest}`, { at, token: conversation.token })).body
      const first = await get('/history/session/messages?limit=4')
      const rest = await get(`/history/session/messages?limit=200&cursor=${first.nextCursor}`)
      const said = [first, rest].flatMap(({ messages }) => messages as { role: string; content: string }[])
      const expected = [1, 2, 3].flatMap((turn) => [
        ['user', `/echo answer ${turn}`],
        ['assistant', `answer ${turn}`],
      ])
      expect(said.map(({ role, content }) => [role, content])).toEqual(expected)
      expect([first.hasMore, rest.hasMore, rest.nextCursor]).toEqual([true, false, null])
      const stats = await get('/history/session/stats')
      expect(stats).toMatchObject({ messageCount: 6, userMessageCount: 3, assistantMessageCount: 3 })
      expect(await get('/history/status')).toMatchObject({ status: 'idle', sessionId: conversation.id })
      expect(await get('')).toMatchObject({ success: true, agent: { userId: 'ada', status: 'idle' } })
      const run = await cluster.call('GET', `/api/v1/runs/${sent[1]?.runId}`, { at, token: conversation.token })
      const times = run.body as { createdAt: number; startedAt: number; endedAt: number }
      expect(run.body).toMatchObject({ status: 'completed', result: 'answer 2', error: null, model: 'demo/demo' })
      expect(times.createdAt <= times.startedAt && times.startedAt <= times.endedAt).toBe(true)
    }
    await until(async () => {
      const { agent } = (await cluster.call('GET', path)).body as { agent: { hasActiveConnection: boolean } }
      return agent.hasActiveConnection
    }, 'every replica knows of the stream')
    await follower.stop()
  })

  test('is known to the model in the next turn', async ({ cluster }) => {
    const { conversation, follower } = await openFollowed(cluster)
    await follower.completed((await conversation.send('/echo remember the lemons')).messageId)
    const { messageId } = await conversation.send('/history')
    const { data } = await follower.completed(messageId)
    expect(data.finalText).toContain('assistant: remember the lemons')
    await follower.stop()
  })
})

describe('conversations', () => {
  test('are resumed by agent, user and thread, on every replica, also by fifty at once', async ({ cluster }) => {
    const open = (body: object) => cluster.call('POST', '/api/v1/agents', { body })
    const same = { userId: 'bob', thread: 'holidays' }
    const ids = (await fifty(() => open(same))).map(({ body }) => body.agentId)
    expect(new Set(ids).size).toBe(1)
    const other = (await open({ ...same, thread: 'work' })).body.agentId
    const fresh = (await open({ ...same, forceNew: true })).body.agentId
    const after = (await open(same)).body.agentId
    expect(new Set([ids[0], other, fresh]).size).toBe(3)
    expect(after).toBe(fresh)
  })

  test('are new for each of fifty that ask for a new one at once', async ({ cluster }) => {
    const body = { userId: 'eve', thread: 'rush', forceNew: true }
    const opened = await fifty(() => cluster.call('POST', '/api/v1/agents', { body }))
    expect(opened.map(({ status }) => status)).toEqual(opened.map(() => 201))
    expect(new Set(opened.map(({ body }) => body.agentId)).size).toBe(50)
  })

  test('of a dry run do not exist', async ({ cluster }) => {
    const answer = await cluster.call('POST', '/api/v1/agents', { body: { dryRun: true, forceNew: true } })
    expect(answer).toMatchObject({ status: 200, body: { success: true } })
    expect((await cluster.call('GET', `/api/v1/agents/${answer.body.agentId}`)).status).toBe(404)
  })

  test('can be had under the prefix that published clients add, with true links and times', async ({ cluster }) => {
    const before = Date.now()
    const opened = await cluster.call('POST', '/lobu/api/v1/agents', { body: { forceNew: true } })
    expect(opened.status).toBe(201)
    const { agentId, conversationId, expiresAt, sseUrl, messagesUrl, token } = opened.body
    const path = `${cluster.proxy.url}/api/v1/agents/${agentId}`
    expect({ conversationId, sseUrl, messagesUrl }).toEqual({
      ...{ conversationId: agentId, sseUrl: `${path}/events`, messagesUrl: `${path}/messages` },
    })
    const day = 24 * 3_600_000
    expect(Math.abs(Number(expiresAt) - before - day)).toBeLessThan(60_000)
    const at = `${cluster.proxy.url}/lobu`
    const posted = await cluster.call('POST', `/api/v1/agents/${agentId}/messages`, {
      ...{ at, token: String(token), body: { message: '/echo alias' } },
    })
    const follower = await followEvents(`${at}/api/v1/agents/${agentId}/events`, { token: String(token) })
    const { data } = await follower.completed(String(posted.body.messageId))
    expect(data.finalText).toBe('alias')
    await follower.stop()
  })

  test('use the model they name, and are refused one that cannot be used', async ({ cluster }) => {
    for (const named of [
      { provider: 'demo', model: 'other' },
      { provider: 'demo', model: 'demo/other' },
    ]) {
      const { conversation, follower } = await openFollowed(cluster, named)
      const { messageId, runId } = await conversation.send('/echo x')
      await follower.completed(messageId)
      expect((await readRun(cluster, runId)).model).toBe('demo/other')
      await follower.stop()
    }
    const unknown = [{ model: 'nobody/x' }, { provider: 'nobody' }]
    for (const body of unknown) await expectNoConversation(cluster, body, 'invalid_request')
    // What needs a setting of the operator does not pass by itself: no client may be told to try again.
    const unconfigured = [{ model: 'anthropic/claude-sonnet-4-5' }, { provider: 'anthropic' }]
    for (const body of unconfigured) await expectNoConversation(cluster, body, 'model_unavailable')
  })
})

test('agents are made, found, changed and removed, with the answers that clients rely on', async ({ cluster }) => {
  const path = '/api/default/agents'
  const body = { agentId: 'travel-desk', name: 'Travel', instructions: 'Book trains.' }
  expect((await cluster.call('POST', path, { body })).status).toBe(201)
  expect((await cluster.call('POST', path, { body })).status).toBe(200)
  expect(await cluster.call('POST', path, { body: { ...body, name: 'Other' } })).toMatchObject({
    ...{ status: 409, body: { code: 'conflict' } },
  })
  const changed = await cluster.call('PATCH', `${path}/travel-desk`, { body: { name: 'Trains' } })
  expect(changed).toMatchObject({ status: 200, body: { agent: { name: 'Trains', instructions: 'Book trains.' } } })
  const { conversation, follower } = await openFollowed(cluster, { agentId: 'travel-desk' })
  await follower.completed((await conversation.send('/echo on board')).messageId)
  const listed = await cluster.call('GET', '/api/v1/agents')
  expect(listed.body.agents).toContainEqual(expect.objectContaining({ agentId: 'travel-desk', name: 'Trains' }))
  expect((await cluster.call('DELETE', `${path}/travel-desk`)).status).toBe(204)
  expect((await cluster.call('GET', `${path}/travel-desk`)).status).toBe(404)
  expect((await conversation.post('/echo anybody?')).status).toBe(404)
  await until(follower.isOver, 'the stream of a removed conversation is closed')
  expect((await cluster.call('POST', '/api/v1/agents', { body: { agentId: 'travel-desk' } })).status).toBe(404)
  expect((await cluster.call('DELETE', `${path}/assistant`)).status).toBe(409)
})

test('HEAD of an event stream is answered with headers alone, and its connection can be used again', async ({
  cluster,
}) => {
  const { id } = await cluster.open()
  const head = `HEAD /api/v1/agents/${id}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${cluster.key}\r\n\r\n`
  const get = 'GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n'
  const received = await sendRaw(Number(new URL(cluster.replicas[0]!.url).port), head + get)
  const [first, second, body] = received.split('\r\n\r\n')
  expect(first).toMatch(/^HTTP\/1.1 200 OK[\s\S]*content-type: text\/event-stream/i)
  expect(second).toMatch(/^HTTP\/1.1 200 OK/)
  expect(body).toContain('"status":"ok"')
})
