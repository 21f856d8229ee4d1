import { afterEach, describe, expect, test } from 'vitest'
import { AppError } from '../../lib/errors.ts'
import { ask, createCleanup, errorOf, startRig, startUpstream } from './test-rig.ts'

const cleanup = createCleanup()
afterEach(() => cleanup.run())

const MESSAGES = '/model/anthropic/messages'
const ENVIRONMENT_KEY = 'key-of-the-environment'
const OWN_KEY = 'key-of-the-agent'

describe('a key of the agent or its organization', () => {
  test.each([
    [ENVIRONMENT_KEY, OWN_KEY, OWN_KEY],
    [undefined, OWN_KEY, OWN_KEY],
    [ENVIRONMENT_KEY, undefined, ENVIRONMENT_KEY],
  ])('with %s in the environment and %s of its own the vendor sees %s', async (apiKey, own, expected) => {
    const { baseUrl, seen } = await startUpstream(cleanup, (_, res) => res.end('{}'))
    const asked: unknown[] = []
    const { session } = await startRig(cleanup, 'anthropic', { anthropic: { baseUrl, apiKey } }, async (run) => {
      asked.push(run)
      return own
    })
    expect(await ask(session, MESSAGES)).toMatchObject({ status: 200 })
    expect(seen[0]?.headers).toMatchObject({ 'x-api-key': expected })
    expect(asked).toEqual([{ runId: 'run-1', fence: 7, provider: 'anthropic' }])
  })

  test('is asked for anew with each call', async () => {
    const { baseUrl, seen } = await startUpstream(cleanup, (_, res) => res.end('{}'))
    const keys = ['first-key', 'second-key']
    const { session } = await startRig(cleanup, 'anthropic', { anthropic: { baseUrl } }, async () => keys.shift())
    for (let call = 0; call < 2; call++) await ask(session, MESSAGES)
    expect(seen.map(({ headers }) => headers['x-api-key'])).toEqual(['first-key', 'second-key'])
    expect(errorOf((await ask(session, MESSAGES)).body)).toMatchObject({ type: 'model_unavailable' })
  })

  test.each([
    [new AppError('forbidden', 'This run is over.'), 403, 'This run is over.'],
    [new AppError('model_unavailable', 'The stored key cannot be opened.'), 500, 'The stored key cannot be opened.'],
    [new Error('canary of a bug'), 500, 'The gateway could not make this model call.'],
  ])(
    'that cannot be had refuses the call, and the one of the environment is not used: %s',
    async (error, status, message) => {
      const { baseUrl, seen } = await startUpstream(cleanup, (_, res) => res.end('{}'))
      const providers = { anthropic: { baseUrl, apiKey: ENVIRONMENT_KEY } }
      const { session } = await startRig(cleanup, 'anthropic', providers, () => Promise.reject(error))
      const reply = await ask(session, MESSAGES)
      expect(reply.status).toBe(status)
      expect(errorOf(reply.body)).toMatchObject({ message })
      expect(seen).toHaveLength(0)
    },
  )
})

test('a vendor that quotes the key, in a header, whole or in pieces, does not show it to the worker', async () => {
  const { baseUrl } = await startUpstream(cleanup, async ({ headers }, res) => {
    const key = String(headers['x-api-key'])
    res.writeHead(400, { 'content-type': 'application/json', 'request-id': `req-${key}` })
    res.write(`{"error":{"message":"bad key ${key} or ${key.slice(0, 9)}`)
    await new Promise((resolve) => setImmediate(resolve))
    res.end(`${key.slice(9)}, ${key.slice(0, -1)}"}}`)
  })
  const { session, lines } = await startRig(cleanup, 'anthropic', { anthropic: { baseUrl, apiKey: OWN_KEY } })
  const reply = await ask(session, MESSAGES)
  expect(errorOf(reply.body).message).toBe(`bad key [redacted] or [redacted], ${OWN_KEY.slice(0, -1)}`)
  expect(reply.headers['request-id']).toBe('req-[redacted]')
  expect(JSON.stringify(lines)).not.toContain(OWN_KEY)
})
