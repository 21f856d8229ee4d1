import { once } from 'node:events'
import { constants } from 'node:http2'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { APICallError, generateText, type ModelMessage, streamText } from 'ai'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { DIRECTIVES } from './demo/directives.ts'
import { ask, CONTINUE_NOTE, createCleanup, post, readFixture, startRig } from './test-rig.ts'

const cleanup = createCleanup()
afterEach(() => cleanup.run())

const PATH = '/model/demo/chat/completions'
const TOOLS = [{ type: 'function', function: { name: 'current_time', parameters: { type: 'object', properties: {} } } }]

type Message = { role: string; content: string | null; [more: string]: unknown }
const user = (content: string): Message => ({ role: 'user', content })
const assistant = (content: string): Message => ({ role: 'assistant', content })
const calling = (id: string): Message => ({
  ...assistant(''),
  content: null,
  tool_calls: [{ id, type: 'function', function: { name: 'current_time', arguments: '{}' } }],
})
const result = (id: string, content: string): Message => ({ role: 'tool', tool_call_id: id, content })

async function startDemo() {
  const { session, fetch } = await startRig(cleanup, 'demo', {})
  const complete = async (messages: Message[], more: object = {}) => {
    const reply = await ask(session, PATH, { body: JSON.stringify({ model: 'demo', messages, ...more }) })
    return { ...reply, json: JSON.parse(reply.body) }
  }
  const say = async (...messages: Message[]): Promise<string> =>
    (await complete(messages)).json.choices[0].message.content
  const stream = (messages: Message[], more: object = {}) =>
    post(session, PATH).end(JSON.stringify({ model: 'demo', messages, stream: true, ...more }))
  return { session, fetch, complete, say, stream }
}

/** The model as a worker has it. */
function sdkModel(fetch: typeof globalThis.fetch) {
  const options = { name: 'demo', baseURL: 'http://gateway/model/demo', apiKey: 'none', includeUsage: true, fetch }
  return createOpenAICompatible(options)('demo')
}

/** What came before the end or the cut, and which of the two it was. */
async function readWords(stream: ReturnType<typeof post>) {
  let raw = ''
  let cut = false
  try {
    for await (const part of stream.setEncoding('utf8')) raw += part
  } catch {
    cut = true
  }
  const events = raw.split('\n\n').filter((event) => event !== '' && event !== 'data: [DONE]')
  const deltas = events.map((event) => JSON.parse(event.slice('data: '.length)).choices[0]?.delta.content ?? '')
  return { text: deltas.join(''), cut, done: raw.endsWith('data: [DONE]\n\n') }
}

describe('without directives', () => {
  test('it quotes the user, counts the turns and says how to get a real model', async () => {
    const { say } = await startDemo()
    const first = await say({ role: 'system', content: 'Be kind.' }, user('What is\n  the weather?'))
    expect(first).toContain('“What is the weather?”')
    expect(first).toContain('turn 1 ')
    expect(first).toContain('demo model')
    expect(first).toContain('ANTHROPIC_API_KEY')
    expect(await say(user('Hi'), assistant(first), user('And'), user('now?'))).toContain('turn 2 ')
  })

  test('a long text is quoted in part', async () => {
    const { say } = await startDemo()
    expect((await say(user('long '.repeat(100_000)))).length).toBeLessThan(700)
  })

  test('text in parts counts, files are named', async () => {
    const { complete } = await startDemo()
    const content = [
      { type: 'text', text: 'Look at' },
      { type: 'image_url', image_url: { url: 'data:,' } },
    ]
    const { json } = await complete([{ role: 'user', content } as unknown as Message])
    expect(json.choices[0].message.content).toContain('“Look at [image_url]”')
  })

  test('the same messages get the same answer', async () => {
    const { say } = await startDemo()
    expect(await say(user('Hi'))).toBe(await say(user('Hi')))
    expect(await say(user('Hi'))).not.toBe(await say(user('Ho')))
  })
})

describe('the wire', () => {
  test.each([
    ['text.sse', [user('/echo Hello from the recording.')]],
    ['tool.sse', [user('/tool')]],
  ])('%s is what a stream looks like', async (name, messages) => {
    const { session } = await startDemo()
    const request = { model: 'demo', messages, stream: true, stream_options: { include_usage: true }, tools: TOOLS }
    const reply = await ask(session, PATH, { body: JSON.stringify(request) })
    expect(reply.headers['content-type']).toBe('text/event-stream')
    expect(reply.body.replace(/"created":\d+/g, '"created":0')).toBe(await readFixture('demo', name))
  })

  test('a stream gives usage only when it is asked for', async () => {
    const { session } = await startDemo()
    const body = JSON.stringify({ model: 'demo', messages: [user('/echo hi')], stream: true })
    expect((await ask(session, PATH, { body })).body).not.toContain('usage')
  })

  test('without stream the answer is one object with usage', async () => {
    const { complete } = await startDemo()
    const { json, headers } = await complete([user('/words 3')])
    expect(headers['content-type']).toBe('application/json')
    expect(json).toMatchObject({
      object: 'chat.completion',
      model: 'demo',
      choices: [{ index: 0, message: { role: 'assistant', content: 'w1 w2 w3' }, finish_reason: 'stop' }],
      usage: { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5 },
    })
  })

  test('the SDK reads both', async () => {
    const { fetch } = await startDemo()
    const { text, usage } = await generateText({ model: sdkModel(fetch), prompt: '/words 3' })
    expect(text).toBe('w1 w2 w3')
    expect(usage.outputTokens).toBe(3)
    const streamed = streamText({ model: sdkModel(fetch), prompt: '/words 3' })
    const words: string[] = []
    for await (const word of streamed.textStream) words.push(word)
    expect(words).toEqual(['w1', ' w2', ' w3'])
  })

  test.each(['', '{', '[]', '{"messages":[]}', '{"messages":"hi"}'])('%s is refused', async (body) => {
    const { session } = await startDemo()
    const reply = await ask(session, PATH, { body })
    expect(reply.status).toBe(400)
    expect(JSON.parse(reply.body).error.message).toContain('not a chat completion request')
  })
})

describe('directives', () => {
  test('/echo says the text up to the next directive, spaces and all', async () => {
    const { say } = await startDemo()
    expect(await say(user('/echo  two  spaces\nand a line /delay 0 '))).toBe('two  spaces\nand a line')
    expect(await say(user('/delay 0 /echo /words are not numbered /etc/passwd'))).toBe(
      '/words are not numbered /etc/passwd',
    )
  })

  test('/words counts, within its bound', async () => {
    const { say } = await startDemo()
    expect(await say(user('please /words 4'))).toBe('w1 w2 w3 w4')
    const most = await say(user('/words 999999999'))
    expect(most.endsWith(` w${DIRECTIVES.words.max}`)).toBe(true)
  })

  test('/delay 0 streams many words in order', async () => {
    const { stream } = await startDemo()
    const { text, done } = await readWords(stream([user('/words 20000 /delay 0')]))
    expect(text.split(' ')).toHaveLength(20_000)
    expect(text.endsWith(' w20000')).toBe(true)
    expect(done).toBe(true)
  })

  test('/tools calls the tool so many times, then tells the last answers', async () => {
    const { complete } = await startDemo()
    const messages = [user('/tools 2 /echo done')]
    const ids: string[] = []
    for (const time of ['one o’clock', 'two o’clock']) {
      const { json } = await complete(messages, { tools: TOOLS })
      expect(json.choices[0]).toMatchObject({ finish_reason: 'tool_calls', message: { content: null } })
      const [call] = json.choices[0].message.tool_calls
      expect(call.function).toEqual({ name: 'current_time', arguments: '{}' })
      ids.push(call.id)
      messages.push(calling(call.id), result(call.id, time))
    }
    const { json } = await complete(messages, { tools: TOOLS })
    expect(json.choices[0].message.content).toMatch(/one o’clock\n.*two o’clock\n\ndone$/)
    expect(new Set(ids).size).toBe(2)
  })

  test('/tool without such a tool says so', async () => {
    const { say } = await startDemo()
    expect(await say(user('/tool'))).toBe('I was offered no tool named current_time.')
  })

  test('/history lists roles and first words of all messages', async () => {
    const { say } = await startDemo()
    const long = 'one two three four five six seven eight nine ten'
    const told = await say({ role: 'system', content: 'Be kind.' }, user(long), calling('c'), user('/history'))
    expect(told.split('\n')).toEqual([
      'I was given 4 messages:',
      '1. system: Be kind.',
      '2. user: one two three four five six seven eight',
      '3. assistant: [calls current_time]',
      '4. user: /history',
    ])
  })

  test.each([400, 401, 429, 500])('/fail %i is that error, and the SDK can read it', async (status) => {
    const { fetch } = await startDemo()
    const failed = generateText({ model: sdkModel(fetch), prompt: `/fail ${status}`, maxRetries: 0 })
    const error = await failed.catch((reason: unknown) => reason)
    expect(APICallError.isInstance(error)).toBe(true)
    expect(error).toMatchObject({ statusCode: status, isRetryable: status >= 429 })
    expect((error as APICallError).message).toContain('The demo model was asked to')
    expect((error as APICallError).responseHeaders?.['retry-after']).toBe(status === 429 ? '1' : undefined)
  })

  test('/cut ends the connection after so many words, and the end does not look like one', async () => {
    const { stream } = await startDemo()
    expect(await readWords(stream([user('/words 10 /cut 4')]))).toEqual({
      text: 'w1 w2 w3 w4',
      cut: true,
      done: false,
    })
    expect(await readWords(stream([user('/words 10 /cut 0')]))).toMatchObject({ text: '', cut: true })
    expect(await readWords(stream([user('/words 3 /cut 9')]))).toMatchObject({ text: 'w1 w2 w3', cut: true })
  })

  test('/think and /hang send headers and then nothing', async () => {
    const { stream } = await startDemo()
    for (const directive of ['/think 600000', '/hang', '/words 9 /hang /delay 0']) {
      const silent = stream([user(directive)])
      const heard = vi.fn()
      silent.on('data', heard)
      const [headers] = await once(silent, 'response')
      expect(headers[':status']).toBe(200)
      silent.close(constants.NGHTTP2_CANCEL)
      await once(silent, 'close')
      expect(heard).not.toHaveBeenCalled()
    }
  })

  test('/think is over at some time', async () => {
    const { stream } = await startDemo()
    expect(await readWords(stream([user('/think 50 /echo so it is')]))).toMatchObject({ text: 'so it is', done: true })
  })

  test('only the last user message counts, and in text alone', async () => {
    const { say } = await startDemo()
    expect(await say(user('/words 5'), assistant('w1 w2 w3 w4 w5'), user('thanks'))).toContain('“thanks”')
    for (const plain of ['/words', '/words many', 'a/words 3', '/fail 418', '/words 3.5', '/WORDS 3']) {
      expect(await say(user(plain))).toContain(`“${plain}”`)
    }
  })
})

describe('an answer that was cut off', () => {
  const prompt = user('/words 6 /cut 3')
  const note = user(CONTINUE_NOTE)

  test.each(['w1', 'w1 w2 w', 'w1 w2 w3 ', 'w1 w2 w3 w4 w5 w6'])('goes on exactly after “%s”', async (partial) => {
    const { stream } = await startDemo()
    const { text, done } = await readWords(stream([prompt, assistant(partial), note]))
    expect(partial + text).toBe('w1 w2 w3 w4 w5 w6')
    expect(done).toBe(true)
  })

  test('goes on after several cuts, and after a tool round', async () => {
    const { say } = await startDemo()
    expect(await say(prompt, assistant('w1 w2'), note, assistant(' w3 w'), note)).toBe('4 w5 w6')
    const round = [user('/tool /echo bye'), calling('c'), result('c', 'noon')]
    const whole = await say(...round)
    expect(await say(...round, assistant(whole.slice(0, 20)), note)).toBe(whole.slice(20))
  })

  test('is answered in full when this model did not begin it', async () => {
    const { say } = await startDemo()
    expect(await say(prompt, assistant('Bonjour'), note)).toBe('w1 w2 w3 w4 w5 w6')
  })

  test('goes on through the SDK as a worker does it', async () => {
    const { fetch } = await startDemo()
    const messages: ModelMessage[] = [{ role: 'user', content: '/words 8 /cut 3' }]
    const first = streamText({ model: sdkModel(fetch), messages, maxRetries: 0, onError: () => {} })
    let partial = ''
    const reading = (async () => {
      for await (const part of first.stream) if (part.type === 'text-delta') partial += part.text
    })()
    await expect(reading).rejects.toThrow()
    expect(partial).toBe('w1 w2 w3')
    messages.push({ role: 'assistant', content: partial }, { role: 'user', content: CONTINUE_NOTE })
    const second = await generateText({ model: sdkModel(fetch), messages })
    expect(partial + second.text).toBe('w1 w2 w3 w4 w5 w6 w7 w8')
  })
})

test('the first word comes at once, and an abort ends the rest', async () => {
  const { stream } = await startDemo()
  const slow = stream([user('/words 100 /delay 60000')])
  let heard = ''
  slow.setEncoding('utf8').on('data', (part) => {
    heard += part
  })
  await vi.waitFor(() => expect(heard).toContain('"w1"'))
  slow.close(constants.NGHTTP2_CANCEL)
  await once(slow, 'close')
  expect(heard).not.toContain('w2')
})
