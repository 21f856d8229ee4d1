import { type IncomingMessage, type RequestOptions, request } from 'node:http'
import { connect } from 'node:net'
import { expect, test, vi } from 'vitest'
import { PATIENT, sendRaw, serve } from '../../tests/support/http.ts'
import { AppError } from '../lib/errors.ts'
import { jsonBody } from './body.ts'
import type { Router } from './router.ts'

const HUNDRED_MB = 100 * 1_048_576
const PIECE = Buffer.alloc(1_048_576, 'x')

function echoRoutes(app: Router) {
  app.post('/echo', jsonBody(), async (c) => c.json(await c.req.json()))
  app.post('/closed', () => {
    throw new AppError('unauthenticated', 'Who are you?')
  })
}

/** Sends 100 MB with node:http; `sent` tells how many bytes the client was let go of. */
function upload(
  url: string,
  options: RequestOptions,
): Promise<{ response: IncomingMessage; body: string; sent: number }> {
  return new Promise((resolve, reject) => {
    let sent = 0
    const req = request(url, { method: 'POST', ...options }, (response) => {
      let body = ''
      response.on('data', (chunk) => {
        body += chunk
      })
      response.on('end', () => resolve({ response, body, sent }))
    })
    req.on('error', reject)
    const pour = () => {
      while (sent < HUNDRED_MB && !req.destroyed) {
        sent += PIECE.length
        if (!req.write(PIECE)) return void req.once('drain', pour)
      }
      req.end()
    }
    if (options.headers && 'expect' in options.headers) {
      req.flushHeaders()
      req.once('continue', pour)
    } else pour()
  })
}

const json = { 'content-type': 'application/json' }
test.each([
  ['with Content-Length', { headers: { ...json, 'content-length': HUNDRED_MB } }],
  ['in chunks', { headers: json }],
  [
    'with Content-Length over a connection to be closed',
    { headers: { ...json, 'content-length': HUNDRED_MB, connection: 'close' } },
  ],
  ['in chunks over a connection to be closed', { headers: { ...json, connection: 'close' } }],
])('100 MB of JSON sent %s are answered with 413', async (_how, options) => {
  const { url } = await serve(echoRoutes)
  const { response, body } = await upload(`${url}/echo`, options)
  expect(response.statusCode).toBe(413)
  expect(response.headers.connection).toBe('close')
  expect(JSON.parse(body)).toMatchObject({ code: 'payload_too_large' })
})

test('a client that asks with Expect before it sends 100 MB is refused before it has sent a byte', async () => {
  const { url } = await serve(echoRoutes)
  const headers = { ...json, 'content-length': HUNDRED_MB, expect: '100-continue' }
  const { response, sent } = await upload(`${url}/echo`, { headers })
  expect(response.statusCode).toBe(413)
  expect(sent).toBe(0)
})

test('a client that asks with Expect and may send is told to go on', async () => {
  const { port } = await serve(echoRoutes)
  const body = '{"a":1}'
  const head = `POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`
  const received = await new Promise<string>((resolve, reject) => {
    let text = ''
    const socket = connect(port, '127.0.0.1', () => socket.write(head))
    socket.on('data', (chunk) => {
      if (text === '') socket.write(body)
      text += chunk
    })
    socket.on('end', () => resolve(text)).on('error', reject)
  })
  expect(received).toMatch(/^HTTP\/1.1 100 Continue\r\n\r\nHTTP\/1.1 200 OK/)
})

// As many HTTP libraries do: write all, then read. A reset on the way would lose them the answer.
test('a client that sends all 100 MB before it reads gets the 413', async () => {
  const { port } = await serve(echoRoutes)
  const received = await new Promise<string>((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', async () => {
      socket.pause()
      socket.write(
        `POST /echo HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${HUNDRED_MB}\r\n\r\n`,
      )
      for (let sent = 0; sent < HUNDRED_MB; sent += PIECE.length) {
        await new Promise((written) => socket.write(PIECE, written))
      }
      socket.resume()
    })
    let text = ''
    socket.on('data', (chunk) => {
      text += chunk
    })
    socket.on('end', () => resolve(text)).on('error', reject)
  })
  expect(received).toMatch(/^HTTP\/1.1 413 /)
  expect(received).toContain('payload_too_large')
})

test('fetch gets the 413 of a body that it streams', async () => {
  const { url } = await serve(echoRoutes)
  const response = await fetch(`${url}/echo`, { method: 'POST', headers: json, body: new Uint8Array(HUNDRED_MB) })
  expect(response.status).toBe(413)
})

test('after any other refusal the rest of the body is thrown away and the connection serves on', async () => {
  const { port } = await serve(echoRoutes)
  const body = 'x'.repeat(2_000_000)
  const refused = `POST /closed HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n${body}`
  const next =
    'POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}'
  const received = await sendRaw(port, refused + next)
  expect(received.match(/HTTP\/1.1 \d+/g)).toEqual(['HTTP/1.1 401', 'HTTP/1.1 200'])
})

test('a refused body that never ends costs the client its connection', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  const { port } = await serve(echoRoutes)
  const pending = sendRaw(port, 'POST /closed HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nonly this')
  await vi.waitUntil(() => vi.getTimerCount() > 0, PATIENT)
  await vi.advanceTimersByTimeAsync(60_000)
  vi.useRealTimers()
  expect(await pending).toMatch(/^HTTP\/1.1 401 /)
})
