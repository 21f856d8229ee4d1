import { once } from 'node:events'
import { request } from 'node:http'
import { connect } from 'node:net'
import { describe, expect } from 'vitest'
import { type Answer, type Call, type Cluster, type Conversation, test } from '../support/cluster.ts'
import { connectSse } from '../support/sse-client.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('the gateway needs it')

test.override('clusterOptions', { replicas: 1, env: {} })

const MB = 1_048_576

/** The one form that every refusal has: JSON, a sentence, a stable word; `success: false` where clients look for it. */
function expectRefused(answer: Answer, status: number | number[], path = '/api/v1/') {
  expect([status].flat(), `${answer.status} ${answer.text.slice(0, 300)}`).toContain(answer.status)
  expect(answer.headers['content-type']).toMatch(/^application\/json/)
  expect(answer.body).toMatchObject({ error: expect.any(String), code: expect.stringMatching(/^[a-z]+(_[a-z]+)*$/) })
  expect(answer.body.success).toBe(/^(\/lobu)?\/api\/v1\//.test(path) ? false : undefined)
  expect(answer.text).not.toMatch(/\n\s+at |node_modules|select |postgres/i)
}

const nested = (depth: number) => `{"content":"x","platformMetadata":${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}}`

describe('a message that is not one', () => {
  const json = { 'content-type': 'application/json' }
  const cases: [string, Call, number][] = [
    ['broken JSON', { raw: '{"content":', headers: json }, 400],
    ['no object', { raw: 'null', headers: json }, 400],
    ['a list', { raw: '[]', headers: json }, 400],
    ['a string', { raw: '"hello"', headers: json }, 400],
    ['bytes that are not UTF-8', { raw: Buffer.from('{"content":"\xff\xfe"}', 'latin1'), headers: json }, 400],
    ['no body', {}, 400],
    ['no content', { body: {} }, 400],
    ['blank content', { body: { content: ' \n\t ' } }, 400],
    ['a number as content', { body: { content: 5 } }, 400],
    ['a list as content', { body: { content: ['x'] } }, 400],
    ['too long a content', { body: { content: 'x'.repeat(100_001) } }, 400],
    ['an empty messageId', { body: { content: 'x', messageId: '' } }, 400],
    ['a number as messageId', { body: { content: 'x', messageId: 7 } }, 400],
    ['too long a messageId', { body: { content: 'x', messageId: 'm'.repeat(201) } }, 400],
    ['an unknown onBusy', { body: { content: 'x', onBusy: 'whenever' } }, 400],
    ['a webhook that is no URL', { body: { content: 'x', webhookUrl: 'call me' } }, 400],
    ['a webhook by FTP', { body: { content: 'x', webhookUrl: 'ftp://example.com/' } }, 400],
    ['a webhook that is a script', { body: { content: 'x', webhookUrl: 'javascript:alert(1)' } }, 400],
    ['a string as place', { body: { content: 'x', slack: 'general' } }, 400],
    ['deep JSON', { raw: nested(70), headers: json }, 400],
    ['very deep JSON', { raw: nested(100_000), headers: json }, 400],
    ['an empty Idempotency-Key', { body: { content: 'x' }, headers: { 'idempotency-key': '' } }, 400],
    ['text', { raw: 'content=x', headers: { 'content-type': 'text/plain' } }, 415],
    ['no media type', { raw: '{"content":"x"}' }, 415],
    ['a packed body', { raw: '{"content":"x"}', headers: { ...json, 'content-encoding': 'gzip' } }, 415],
    ['a form without a boundary', { raw: 'x', headers: { 'content-type': 'multipart/form-data' } }, 400],
    ['a broken form', { raw: 'x', headers: { 'content-type': 'multipart/form-data; boundary=y' } }, 400],
  ]

  test.for(cases)('%s is refused and starts nothing', async ([, call, status], { cluster }) => {
    const conversation = await cluster.open()
    const answer = await cluster.call('POST', `/api/v1/agents/${conversation.id}/messages`, {
      ...{ token: conversation.token, ...call },
    })
    expectRefused(answer, status)
    const stats = await cluster.call('GET', `/api/v1/agents/${conversation.id}/history/session/stats`)
    expect(stats.body.messageCount).toBe(0)
  })
})

test('a conversation or agent that is described wrongly is refused', async ({ cluster }) => {
  const opens: [unknown, number][] = [
    [{ agentId: 5 }, 400],
    [{ agentId: '' }, 400],
    [{ agentId: 'x'.repeat(256) }, 400],
    [{ agentId: 'nobody-here' }, 404],
    [{ forceNew: 'yes' }, 400],
    [{ thread: null }, 400],
    [{ model: 'nobody/nothing' }, 400],
    [{ networkConfig: { allowedDomains: 'all' } }, 400],
    [{ mcpServers: { files: { url: 'no url' } } }, 400],
    [[], 400],
  ]
  for (const [body, status] of opens) expectRefused(await cluster.call('POST', '/api/v1/agents', { body }), status)
  for (const agentId of ['A', 'ab', '1abc', 'a'.repeat(61), 'a b', '../x', 'ünï', 'a\u0000b', 5, null]) {
    const answer = await cluster.call('POST', '/api/default/agents', { body: { agentId } })
    expectRefused(answer, 400, '/api/default/agents')
  }
})

test('pages are asked for within their bounds', async ({ cluster }) => {
  const { id } = await cluster.open()
  const path = `/api/v1/agents/${id}/history/session/messages`
  for (const query of ['limit=0', 'limit=201', 'limit=-1', 'limit=all', 'cursor=x', 'cursor=1', 'cursor=-1.0']) {
    expectRefused(await cluster.call('GET', `${path}?${query}`), 400)
  }
  expect((await cluster.call('GET', `${path}?cursor=999999999999999.999999999`)).body.messages).toEqual([])
})

test.for(['-1', '1.5', '1e3', '0x10', 'abc', 'NaN', '1 2', '99999999999999999999', "1'--"])(
  'the position %s is refused, in the header and in the query',
  async (position, { cluster }) => {
    const conversation = await cluster.open()
    const path = `/api/v1/agents/${conversation.id}/events`
    expectRefused(await cluster.call('GET', path, { headers: { 'last-event-id': position } }), 400)
    expectRefused(await cluster.call('GET', `${path}?lastEventId=${encodeURIComponent(position)}`), 400)
  },
)

test('the largest position there can be is from the future, and an empty one is none', async ({ cluster }) => {
  const conversation = await cluster.open()
  const headers = { authorization: `Bearer ${conversation.token}` }
  const far = await connectSse(conversation.eventsUrl(), { headers: { ...headers, 'last-event-id': '9'.repeat(15) } })
  await far.waitFor(({ name }) => name === 'reset')
  far.cut()
  const none = await connectSse(conversation.eventsUrl(), { headers: { ...headers, 'last-event-id': '' } })
  await none.waitFor(({ name }) => name === 'connected')
  expect(none.all).toHaveLength(1)
  none.cut()
})

/** Strings that databases, JSON, paths, logs and terminals have choked on. */
const NASTY = [
  'a\u0000b',
  '\u0000',
  '\ud800',
  'x\udc00\ud83d',
  '\u202e\u200b\ufeff',
  '\r\nid: 99\r\n\r\n',
  "'; drop table runs; --",
  '%00%0a%s%n{{7*7}}',
  '../../../../etc/passwd',
  '__proto__',
  '"}\n\ndata: {"type":"delta"}\n\n',
  '🍋'.repeat(50),
]

test('whatever a message says is answered, streamed and kept, and can be sent again', async ({ cluster }) => {
  for (const nasty of NASTY) {
    const conversation = await cluster.open()
    const follower = await conversation.follow()
    const body = { content: `/echo <${nasty}>`, platformMetadata: { nasty, [nasty]: [nasty] } }
    const sent = await conversation.post(body)
    expect(sent.status, sent.text).toBe(200)
    const { data } = await follower.completed(String(sent.body.messageId))
    expect(data.status).toBe('completed')
    expect(follower.faults).toEqual([])
    const again = await conversation.post({ ...body, messageId: sent.body.messageId })
    expect(again.text).toBe(sent.text)
    const history = await cluster.call('GET', `/api/v1/agents/${conversation.id}/history/session/messages`)
    const said = history.body.messages as { content: string }[]
    expect(said).toHaveLength(2)
    expect(said.every(({ content }) => content.isWellFormed() && !content.includes('\u0000'))).toBe(true)
    await follower.stop()
  }
})

test('no string in any field or address makes the gateway fail', async ({ cluster }) => {
  const { id, token } = await cluster.open()
  const answers: Answer[] = []
  for (const nasty of NASTY) {
    const inPath = encodeURIComponent(nasty.toWellFormed())
    const inHeader = nasty.replace(/[^\x20-\x7e]/g, '.')
    answers.push(
      await cluster.call('POST', '/api/v1/agents', { body: { userId: nasty, thread: nasty, forceNew: true } }),
      await cluster.call('POST', '/api/v1/agents', { body: { agentId: nasty } }),
      await cluster.call('POST', '/api/v1/agents', { body: { model: nasty, provider: nasty } }),
      await cluster.call('POST', '/api/v1/agents', {
        body: { mcpServers: { [nasty]: { headers: { [nasty]: nasty } } } },
      }),
      await cluster.call('POST', `/api/v1/agents/${id}/messages`, { token, body: { content: 'x', messageId: nasty } }),
      await cluster.call('POST', `/api/v1/agents/${id}/messages`, {
        ...{ token, body: { content: 'x' }, headers: { 'idempotency-key': inHeader } },
      }),
      await cluster.call('POST', `/api/v1/agents/${id}/cancel`, { token, body: { runId: nasty } }),
      await cluster.call('POST', `/api/v1/agents/${id}/cancel`, { token, body: { messageId: nasty } }),
      await cluster.call('POST', '/api/default/agents', {
        body: { agentId: 'nasty', name: nasty, instructions: nasty },
      }),
      await cluster.call('PATCH', '/api/default/agents/assistant', { body: { description: nasty } }),
      await cluster.call('GET', `/api/v1/agents/${inPath}`),
      await cluster.call('GET', `/api/v1/agents/${inPath}/events`),
      await cluster.call('DELETE', `/api/v1/agents/${inPath}`),
      await cluster.call('GET', `/api/v1/runs/${inPath}`),
      await cluster.call('GET', `/api/${inPath}/agents`),
      await cluster.call('GET', `/api/default/agents/${inPath}?after=${inPath}`),
      await cluster.call('GET', `/api/v1/agents?after=${inPath}&limit=5`),
      await cluster.call('GET', `/api/v1/agents/${id}/history/session/messages?cursor=${inPath}`),
      await cluster.call('GET', '/api/v1/agents', { headers: { 'x-lobu-org': inHeader, 'x-request-id': inHeader } }),
      await cluster.call('GET', '/api/v1/agents', { token: inHeader || null, headers: { traceparent: inHeader } }),
    )
    await cluster.call('DELETE', '/api/default/agents/nasty')
  }
  const failed = answers.filter(({ status }) => status >= 500)
  expect(failed.map(({ status, text }) => `${status} ${text}`)).toEqual([])
  expect(answers.filter(({ headers }) => !/^application\/json/.test(String(headers['content-type'])))).toEqual([])
})

describe('a body that is too large', () => {
  /** Sends so many megabytes, as fast as they are taken, and resolves with the answer whenever it comes. */
  async function upload(
    { id, token }: Conversation,
    cluster: Cluster,
    parts: { type: string; head: string; bytes: number; tail: string; declared: boolean },
  ) {
    const { type, head, bytes, tail, declared } = parts
    const length = Buffer.byteLength(head) + bytes + Buffer.byteLength(tail)
    const req = request(`${cluster.replicas[0]?.url}/api/v1/agents/${id}/messages`, {
      method: 'POST',
      agent: false,
      headers: {
        ...{ authorization: `Bearer ${token}`, 'content-type': type },
        ...(declared ? { 'content-length': length } : {}),
      },
    })
    const answered = once(req, 'response').then(async ([response]) => {
      let text = ''
      for await (const chunk of response) text += chunk
      return { status: response.statusCode, headers: response.headers, text, body: JSON.parse(text) } as Answer
    })
    let isAnswered = false
    void answered.finally(() => {
      isAnswered = true
    })
    // Once it was answered, a server may well stop reading.
    req.on('error', () => {})
    req.write(head)
    const chunk = Buffer.alloc(MB, 'x')
    for (let sent = 0; sent < bytes && !isAnswered; sent += MB) {
      await Promise.race([new Promise((resolve) => req.write(chunk, resolve)), answered])
    }
    req.end(tail)
    return answered
  }

  const part = (name: string, fileName: string) =>
    `--b\r\ncontent-disposition: form-data; name="${name}"; filename="${fileName}"\r\n\r\n`
  const form = 'multipart/form-data; boundary=b'
  const json = 'application/json'

  test.for([
    ['JSON of 100 MB', { type: json, head: '{"content":"', bytes: 100 * MB, tail: '"}', declared: true }],
    [
      'JSON of 100 MB of unsaid length',
      { type: json, head: '{"content":"', bytes: 100 * MB, tail: '"}', declared: false },
    ],
    [
      'a file of 51 MB',
      { type: form, head: part('files', 'a'), bytes: 51 * MB, tail: '\r\n--b--\r\n', declared: true },
    ],
    [
      'a form of 103 MB',
      { type: form, head: part('files', 'a'), bytes: 103 * MB, tail: '\r\n--b--\r\n', declared: true },
    ],
    [
      'a form of 103 MB of unsaid length',
      { type: form, head: part('files', 'a'), bytes: 103 * MB, tail: '\r\n--b--\r\n', declared: false },
    ],
  ] as const)('is answered, not cut off: %s', async ([, parts], { cluster }) => {
    const conversation = await cluster.open()
    const answer = await upload(conversation, cluster, parts)
    expectRefused(answer, 413)
    expect(answer.body.code).toBe('payload_too_large')
    const left = await cluster.database.sql`select 1 from files where conversation_id = ${conversation.id}`
    expect(left).toEqual([])
  })

  test('is refused for its number of files', async ({ cluster }) => {
    const conversation = await cluster.open()
    const eleven = Array.from({ length: 11 }, (_, at) => `${part('files', `${at}.txt`)}x\r\n`).join('')
    const raw = `${eleven}--b--\r\n`
    const answer = await conversation.post('', { body: undefined, raw, headers: { 'content-type': form } })
    expectRefused(answer, 413)
  })
})

test('file names lead nowhere', async ({ cluster }) => {
  const conversation = await cluster.open()
  const names = [
    '../../etc/passwd',
    '..\\..\\boot.ini',
    '/abs/olute',
    'a\u0000b.txt',
    '',
    '.',
    '..',
    `${'n'.repeat(400)}.txt`,
    'ünï 🍋.txt',
  ]
  const raw = names
    .map((name) => `--b\r\ncontent-disposition: form-data; name="files"; filename="${name}"\r\n\r\nx\r\n`)
    .join('')
  const headers = { 'content-type': 'multipart/form-data; boundary=b' }
  const answer = await conversation.post('', { body: undefined, raw: `${raw}--b--\r\n`, headers })
  expect([200, 400]).toContain(answer.status)
  const files = await cluster.database.sql<{ name: string }[]>`
    select name from files where conversation_id = ${conversation.id}`
  for (const { name } of files) {
    expect(name).not.toMatch(/[/\\\p{Cc}]/u)
    expect(name.length).toBeLessThanOrEqual(255)
  }
})

describe('an address that is not there', () => {
  test.for([
    ['/nope', 404],
    ['/api', 404],
    ['/api/v1', 404],
    ['/api/v1/nope', 404],
    ['/api/v1/agents/x/nope', 404],
    ['/lobu', 404],
    ['/lobu/nope', 404],
    ['/lobu/api/v1/nope', 404],
    ['/lobu/lobu/api/v1/agents', 404],
    ['//api/v1/agents', 404],
    ['/api/v1/agents/', [404, 200]],
    ['/%', [400, 404]],
    ['/api/v1/agents/%', [400, 404]],
    ['/api/v1/agents/%ff%fe', [400, 404]],
    ['/api/v1/agents/%00', [400, 404]],
    [`/api/v1/agents/${'x'.repeat(5000)}`, [400, 404, 414]],
  ] as const)('%s', async ([path, status], { cluster }) => {
    const answer = await cluster.call('GET', path)
    if (answer.status !== 200) expectRefused(answer, [status].flat(), path)
  })

  test('is not found under the organization that the version of the agent API would name', async ({ cluster }) => {
    expectRefused(await cluster.call('PATCH', '/api/v1/agents/assistant', { body: { name: 'changed' } }), [404, 405])
    const { agent } = (await cluster.call('GET', '/api/default/agents/assistant')).body as { agent: { name: string } }
    expect(agent.name).not.toBe('changed')
  })

  test('is told from one that takes other methods', async ({ cluster }) => {
    const { id } = await cluster.open()
    const calls = [
      ['PUT', `/api/v1/agents/${id}/messages`],
      ['GET', `/api/v1/agents/${id}/messages`],
      ['POST', `/api/v1/agents/${id}/events`],
      ['DELETE', '/api/v1/agents'],
      ['POST', '/health'],
      ['DELETE', '/api/default/agents'],
    ] as const
    for (const [method, path] of calls) {
      const answer = await cluster.call(method, path, method === 'GET' ? {} : { body: { name: 'changed' } })
      expectRefused(answer, 405, path)
      expect(answer.headers.allow).toMatch(/^[A-Z]+(, [A-Z]+)*$/)
    }
  })
})

test('bytes that are not HTTP, and headers without end, are answered in JSON', async ({ cluster }) => {
  const port = cluster.replicas[0]!.port
  const requests: [string, number][] = [
    ['HELLO\r\n\r\n', 400],
    ['GET / HTTP/9.9\r\n\r\n', 400],
    ['GET /health HTTP/1.1\r\nconnection: close\r\n\r\n', 400],
    [`GET /health HTTP/1.1\r\nhost: x\r\nx-long: ${'y'.repeat(40_000)}\r\n\r\n`, 431],
    [`GET /${'y'.repeat(40_000)} HTTP/1.1\r\nhost: x\r\n\r\n`, 431],
    ['POST /api/v1/agents HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n', 400],
    ['POST /api/v1/agents HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}', 400],
  ]
  for (const [bytes, status] of requests) {
    const answer = await sendBytes(port, bytes)
    expect(answer.split('\r\n')[0], bytes.slice(0, 60)).toContain(` ${status} `)
    expect(answer.toLowerCase()).toContain('content-type: application/json')
    expect(JSON.parse(answer.slice(answer.indexOf('\r\n\r\n')))).toMatchObject({ error: expect.any(String) })
  }
})

// The last test of this file, over all that came before.
test('none of this was trouble for the gateway: nothing in its log wants a person', async ({ cluster }) => {
  const trouble = cluster.replicas.flatMap((gateway) => gateway.lines()).filter(({ level }) => level === 'error')
  expect(trouble).toEqual([])
})

/** Sends bytes as they are and resolves with what came back when the server has closed the connection. */
async function sendBytes(port: number, bytes: string): Promise<string> {
  const socket = connect(port, '127.0.0.1').setEncoding('utf8')
  let received = ''
  socket.on('data', (text: string) => {
    received += text
  })
  socket.on('error', () => {})
  socket.write(bytes)
  await once(socket, 'close')
  return received
}
