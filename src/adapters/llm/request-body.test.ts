import { once } from 'node:events'
import type http from 'node:http'
import { type ClientHttp2Stream, constants } from 'node:http2'
import { text } from 'node:stream/consumers'
import { afterEach, describe, expect, test } from 'vitest'
import {
  ask,
  createCleanup,
  errorOf,
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

/** Writes so many bytes as fast as they are taken; ends early when the stream is closed. */
async function upload(stream: ClientHttp2Stream, bytes: number, onTaken: (taken: number) => void = () => {}) {
  const chunk = Buffer.alloc(64 * 1024, 'x')
  for (let at = 0; at < bytes && !stream.closed; at += chunk.length) {
    await new Promise((resolve) => stream.write(chunk, resolve))
    onTaken(at + chunk.length)
  }
  stream.end()
}

test('a vendor that does not read holds the worker back', async () => {
  const body = Promise.withResolvers<http.IncomingMessage>()
  const baseUrl = await startRawUpstream(cleanup, (req, res) => {
    body.resolve(req)
    req.on('end', () => res.end('{}'))
  })
  const { session } = await startAnthropic(baseUrl)
  const stream = post(session, MESSAGES)
  let taken = 0
  void upload(stream, 31 * MIB, (bytes) => {
    taken = bytes
  })
  const req = await body.promise
  expect(await untilStill(() => taken)).toBeLessThan(24 * MIB)
  let received = 0
  for await (const part of req) received += part.length
  expect(received).toBe(31 * MIB)
  expect(await text(stream)).toBe('{}')
})

test('an answer that comes before the question was read arrives', async () => {
  const baseUrl = await startRawUpstream(cleanup, (_, res) => res.writeHead(401).end('{"error":{}}'))
  const { session } = await startAnthropic(baseUrl)
  const stream = post(session, MESSAGES).on('error', () => {})
  void upload(stream, 31 * MIB)
  const [answer] = await once(stream, 'response')
  expect(answer[':status']).toBe(401)
  expect(await text(stream)).toBe('{"error":{}}')
  if (!stream.closed) await once(stream, 'close')
})

describe('a body that is too large is refused', () => {
  test.each([
    ['announced', { 'content-length': String(40 * MIB) }],
    ['not announced', {}],
  ])('%s', async (_, headers) => {
    const { baseUrl, seen } = await startUpstream(cleanup, (_, res) => res.end('{}'))
    const { session } = await startAnthropic(baseUrl)
    const stream = post(session, MESSAGES, headers).on('error', () => {})
    void upload(stream, 40 * MIB)
    const [answer] = await once(stream, 'response')
    expect(answer[':status']).toBe(413)
    expect(errorOf(await text(stream))).toMatchObject({ type: 'payload_too_large' })
    expect(seen).toEqual([])
    if (!stream.closed) await once(stream, 'close')
    expect(await ask(session, MESSAGES)).toMatchObject({ status: 200 })
  })

  test('before its first byte, where the sender announced it', async () => {
    const { session } = await startAnthropic('http://127.0.0.1:1/v1')
    const stream = post(session, MESSAGES, { 'content-length': String(40 * MIB) }).on('error', () => {})
    const [answer] = await once(stream, 'response')
    expect(answer[':status']).toBe(413)
    stream.close(constants.NGHTTP2_CANCEL)
  })

  test('and cut off when it does not end', async () => {
    const { session } = await startAnthropic('http://127.0.0.1:1/v1')
    const stream = post(session, '/model/anthropic/none')
    void upload(stream.resume(), 1024 * MIB)
    await once(stream, 'error')
    expect(stream.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM)
  })

  test('by the built-in model too', async () => {
    const { session } = await startRig(cleanup, 'demo', {})
    const stream = post(session, '/model/demo/chat/completions').on('error', () => {})
    void upload(stream, 40 * MIB)
    const [answer] = await once(stream, 'response')
    expect(answer[':status']).toBe(413)
  })
})
