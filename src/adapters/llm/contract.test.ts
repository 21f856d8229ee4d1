import { createAnthropic } from '@ai-sdk/anthropic'
import { createGoogle } from '@ai-sdk/google'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { isStepCount, type LanguageModel, streamText, tool } from 'ai'
import { afterEach, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { parseConfig } from '../../config.ts'
import { type ModelProvider, type ProviderId, pickHeaders } from './contract.ts'
import { modelProviders } from './index.ts'
import { createCleanup, PLACEHOLDER, REAL_KEY, readFixture, startRig, startUpstream } from './test-rig.ts'

const cleanup = createCleanup()
afterEach(() => cleanup.run())

/** What a worker might try to send along; none of it may leave the gateway. */
const HOSTILE_HEADERS = {
  authorization: `Bearer ${PLACEHOLDER}`,
  'x-api-key': PLACEHOLDER,
  'x-goog-api-key': PLACEHOLDER,
  cookie: 'session=1',
  host: 'elsewhere.test',
  connection: 'upgrade',
  'x-forwarded-for': '10.0.0.1',
  'x-run-id': 'run-1',
  'openai-organization': 'another',
}

const NEVER_IN_AN_ANSWER = ['set-cookie', 'location', 'connection', 'keep-alive', 'transfer-encoding', 'upgrade', 'te']

const FORBIDDEN_PATHS = [
  '',
  '/',
  '/files',
  '/models',
  '/batches',
  '/messages/batches',
  '/messages/../files',
  '/messages%2f..%2ffiles',
  '/chat/completions/../../files',
  '/responses/resp_1',
  '/models/a:batchGenerateContent',
  '/models/../files/a:generateContent',
  '/models/a%2F..%2Fb:generateContent',
  '/models/:generateContent',
  '//messages',
]

/** How a worker builds a model: the real SDK, a placeholder for a key, the gateway for an address. */
const models: Record<ProviderId, (fetch: typeof globalThis.fetch) => LanguageModel> = {
  anthropic: (fetch) => createAnthropic(options('anthropic', fetch))('claude-sonnet-4-5'),
  openai: (fetch) => createOpenAI(options('openai', fetch))('gpt-5-mini'),
  'openai-compatible': (fetch) =>
    createOpenAICompatible({ name: 'compatible', includeUsage: true, ...options('openai-compatible', fetch) })('llama'),
  google: (fetch) => createGoogle(options('google', fetch))('gemini-2.5-flash'),
  demo: (fetch) => createOpenAICompatible({ name: 'demo', includeUsage: true, ...options('demo', fetch) })('demo'),
}

function options(id: ProviderId, fetch: typeof globalThis.fetch) {
  return { baseURL: `http://gateway/model/${id}`, apiKey: PLACEHOLDER, fetch }
}

/** A worker of this provider whose vendor replays the named recordings, one a request. */
async function startMember(id: ProviderId, recordings: string[]) {
  const upstream = await startUpstream(cleanup, async (_, res) => {
    const name = recordings.shift() ?? 'text.sse'
    const recording = await readFixture(id, name)
    if (name !== 'error.json') return res.writeHead(200, { 'content-type': 'text/event-stream' }).end(recording)
    const { status, body } = JSON.parse(recording)
    return res.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
  })
  const rig = await startRig(cleanup, id, { [id]: { baseUrl: upstream.baseUrl, apiKey: REAL_KEY } })
  return { upstream, model: models[id](rig.fetch) }
}

function startTurn(model: LanguageModel, prompt: string) {
  const errors: unknown[] = []
  const turn = streamText({
    model,
    prompt,
    maxRetries: 0,
    stopWhen: isStepCount(3),
    tools: {
      current_time: tool({ inputSchema: z.object({}), execute: () => ({ time: '2026-01-02T03:04:05Z' }) }),
    },
    onError: ({ error }) => {
      errors.push(error)
    },
  })
  return { turn, errors }
}

describe.each(modelProviders.map((provider) => [provider.id, provider] as const))('%s', (id, provider) => {
  test('there is a recording of each kind', async () => {
    for (const name of ['request.json', 'text.sse', 'tool.sse', 'error.json']) {
      expect(await readFixture(id, name), name).not.toBe('')
    }
  })

  test('the recorded request is on the list, and neither another method nor another path is', async () => {
    const request = JSON.parse(await readFixture(id, 'request.json'))
    const path = request.path.split('?')[0]
    expect(provider.allowed(request.method, path)).toBe(true)
    for (const method of ['GET', 'PUT', 'DELETE', 'post', 'OPTIONS']) expect(provider.allowed(method, path)).toBe(false)
    for (const other of FORBIDDEN_PATHS) expect(provider.allowed('POST', other), other).toBe(false)
    for (const tail of ['/', '/..', '?key=1', '#', ' ', '\n']) {
      expect(provider.allowed('POST', path + tail), JSON.stringify(tail)).toBe(false)
    }
  })

  test('the real key takes the place of the placeholder, and nothing else of the worker leaves', async () => {
    const request = JSON.parse(await readFixture(id, 'request.json'))
    const passed = pickHeaders({ ...HOSTILE_HEADERS, ...request.headers }, provider.requestHeaders)
    const signed = provider.authorize(passed, REAL_KEY)
    expect(JSON.stringify(signed)).not.toContain(PLACEHOLDER)
    const { credential } = request
    const recorded = { ...request.headers }
    if (credential) recorded[credential.header] = credential.value
    else delete recorded.authorization
    expect(signed).toEqual(recorded)
  })

  test('an answer brings no cookies and nothing about the connection', () => {
    const answer = Object.fromEntries([...NEVER_IN_AN_ANSWER, 'content-type', 'retry-after'].map((name) => [name, 'x']))
    expect(pickHeaders(answer, provider.responseHeaders)).toEqual({ 'content-type': 'x', 'retry-after': 'x' })
  })

  test('the real SDK streams a text through the proxy', async () => {
    const { model } = await startMember(id, ['text.sse'])
    const { turn, errors } = startTurn(model, '/echo Hello from the recording.')
    expect(await turn.text).toBe('Hello from the recording.')
    expect(errors).toEqual([])
    expect((await turn.usage).outputTokens).toBeGreaterThan(0)
  })

  test('the real SDK makes a tool round through the proxy', async () => {
    const { model, upstream } = await startMember(id, ['tool.sse', 'text.sse'])
    const { turn, errors } = startTurn(model, '/tool /echo Hello from the recording.')
    expect(await turn.text).toMatch(/Hello from the recording\.$/)
    expect(errors).toEqual([])
    const steps = await turn.steps
    expect(steps.map((step) => step.toolCalls.map((call) => call.toolName))).toEqual([['current_time'], []])
    const second = provider.answer ? await turn.text : upstream.seen[1]?.body
    expect(second).toContain('2026-01-02T03:04:05Z')
  })

  test("the real SDK reads the message of the vendor's error", async () => {
    const { status, message } = JSON.parse(await readFixture(id, 'error.json'))
    const { model } = await startMember(id, ['error.json'])
    const { turn, errors } = startTurn(model, '/fail 400')
    await turn.consumeStream()
    expect(errors).toEqual([expect.objectContaining({ message, statusCode: status })])
  })

  test("the real SDK reads the message of the proxy's own error", async () => {
    const rig = await startRig(cleanup, provider.id === 'demo' ? 'openai' : 'demo', {})
    const { turn, errors } = startTurn(models[id](rig.fetch), 'hello')
    await turn.consumeStream()
    const message = 'This run may only call the model provider that it was started with.'
    expect(errors).toEqual([expect.objectContaining({ message, statusCode: 403 })])
  })
})

test('the configured default model is the default model of its provider', () => {
  for (const { defaultModel, id, variables } of configurable(modelProviders)) {
    if (defaultModel === null) continue
    expect(parseConfig({ [variables.apiKey]: REAL_KEY }).models.defaultModel).toBe(`${id}/${defaultModel}`)
  }
  expect(parseConfig({}).models.defaultModel).toBe('demo/demo')
})

test('the variables that errors name are variables that the configuration reads', () => {
  for (const { id, variables } of configurable(modelProviders)) {
    const url = 'https://models.test/v9'
    const { providers } = parseConfig({ [variables.apiKey]: REAL_KEY, [variables.baseUrl]: url }).models
    expect(providers[id as Exclude<ProviderId, 'demo'>]).toEqual({ apiKey: REAL_KEY, baseUrl: url })
  }
})

function configurable(providers: readonly ModelProvider[]) {
  return providers.flatMap(({ id, defaultModel, variables }) => (variables ? [{ id, defaultModel, variables }] : []))
}
