import { createHash } from 'node:crypto'
import { request } from 'node:http'
import { connect } from 'node:net'
import { Readable } from 'node:stream'
import { expect, onTestFinished, test, vi } from 'vitest'
import { PATIENT, sendRaw, serve } from '../../tests/support/http.ts'
import { AppError } from '../lib/errors.ts'
import { MULTIPART_LIMITS, type OnFile, readMultipart } from './multipart.ts'

const MB = 1_048_576
const SMALL = { filesMax: 2, fileBytesMax: 1000, totalBytesMax: 1500, msMax: 60_000 }

/** Serves `POST /upload`, which answers with what it was given. */
async function serveUpload({ onFile, limits = MULTIPART_LIMITS }: { onFile?: OnFile; limits?: typeof SMALL } = {}) {
  const seen: { name: string; mediaType: string; bytes: number; sha: string }[] = []
  const hash: OnFile = async (file, bytes) => {
    const digest = createHash('sha256')
    let count = 0
    for await (const chunk of bytes) {
      count += chunk.length
      digest.update(chunk)
    }
    seen.push({ ...file, bytes: count, sha: digest.digest('hex') })
  }
  const served = await serve((app) => {
    app.post('/upload', async (c) => {
      const { fields } = await readMultipart(c, { onFile: onFile ?? hash, limits })
      return c.json({ fields, files: seen })
    })
  })
  return { ...served, seen, upload: (form: FormData) => answer(`${served.url}/upload`, { method: 'POST', body: form }) }
}

async function answer(url: string, init: RequestInit) {
  const response = await fetch(url, init)
  return { status: response.status, body: (await response.json()) as Record<string, unknown> }
}

function form(entries: Record<string, string | File>): FormData {
  const data = new FormData()
  for (const [name, value] of Object.entries(entries)) data.append(name, value)
  return data
}

function raw(port: number, body: string, type = 'multipart/form-data; boundary=x') {
  const head = `POST /upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: ${type}\r\n`
  return sendRaw(port, `${head}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
}

const part = (name: string, bytes: string) =>
  `--x\r\ncontent-disposition: form-data; name="files"; filename="${name}"\r\ncontent-type: text/plain\r\n\r\n${bytes}\r\n`

test('files and fields arrive whole, with their names and types', async () => {
  const { upload } = await serveUpload()
  const bytes = new Uint8Array(3 * MB).map((_, at) => at % 251)
  const picture = new File([bytes], 'naïve 文字.png', { type: 'image/png' })
  const { status, body } = await upload(form({ content: 'see 🙂', files: picture, more: new File(['a'], 'a.txt') }))
  expect(status).toBe(200)
  expect(body).toEqual({
    fields: { content: 'see 🙂' },
    files: [
      {
        name: 'naïve 文字.png',
        mediaType: 'image/png',
        bytes: 3 * MB,
        sha: createHash('sha256').update(bytes).digest('hex'),
      },
      { name: 'a.txt', mediaType: 'application/octet-stream', bytes: 1, sha: expect.any(String) },
    ],
  })
})

test('the file field of a web form with nothing chosen is no file; an unnamed file that has bytes is one', async () => {
  const { port, seen } = await serveUpload()
  expect(await raw(port, `${part('', '')}${part('empty.txt', '')}${part('', 'x')}--x--\r\n`)).toMatch(/^HTTP\/1.1 200 /)
  expect(seen.map(({ name, bytes }) => [name, bytes])).toEqual([
    ['empty.txt', 0],
    ['file', 1],
  ])
})

test('a field that is given twice is refused, since which one was meant is anybody’s guess', async () => {
  const { port } = await serveUpload()
  const field = (value: string) => `--x\r\ncontent-disposition: form-data; name="messageId"\r\n\r\n${value}\r\n`
  const received = await raw(port, `${field('a')}${field('b')}--x--\r\n`)
  expect(received).toMatch(/^HTTP\/1.1 400 /)
  expect(received).toContain('messageId')
})

test('a file is handed on while it is still coming, and no faster than it is taken', async () => {
  let sent = 0
  let take = () => {}
  const taking = new Promise<void>((resolve) => {
    take = resolve
  })
  const first = vi.fn()
  const { port } = await serveUpload({
    onFile: async (_file, bytes) => {
      for await (const chunk of bytes) {
        first(chunk.length)
        await taking
      }
    },
  })
  const body = Readable.from(
    (function* () {
      yield part('big', '').slice(0, -2)
      for (; sent < 40 * MB; sent += 65_536) yield Buffer.alloc(65_536, 'x')
      yield '\r\n--x--\r\n'
    })(),
  )
  const headers = { 'content-type': 'multipart/form-data; boundary=x' }
  const req = request({ port, method: 'POST', path: '/upload', headers })
  const status = new Promise((resolve) => req.on('response', (response) => resolve(response.resume().statusCode)))
  body.pipe(req)
  await vi.waitUntil(() => first.mock.calls.length > 0, PATIENT)
  // The sender stalls once the buffers between it and the reader are full.
  let before = -1
  await vi.waitUntil(
    () => {
      const stalled = before === sent
      before = sent
      return stalled
    },
    { ...PATIENT, interval: 200 },
  )
  expect(sent).toBeLessThan(20 * MB)
  take()
  expect(await status).toBe(200)
})

test.each([
  ['a file over its limit', { a: new File(['x'.repeat(1001)], 'a') }],
  ['files over the limit for all', { a: new File(['x'.repeat(800)], 'a'), b: new File(['x'.repeat(701)], 'b') }],
  ['one file too many', { a: new File(['a'], 'a'), b: new File(['b'], 'b'), c: new File(['c'], 'c') }],
  ['a field over its limit', { a: 'x'.repeat(MB + 1) }],
])('%s is 413', async (_what, entries) => {
  const { upload } = await serveUpload({ limits: SMALL })
  expect(await upload(form(entries))).toMatchObject({ status: 413, body: { code: 'payload_too_large' } })
})

test('files at exactly their limits are taken', async () => {
  const { upload } = await serveUpload({ limits: SMALL })
  const entries = { a: new File(['x'.repeat(1000)], 'a'), b: new File(['x'.repeat(500)], 'b') }
  expect((await upload(form(entries))).status).toBe(200)
})

test('whoever takes a file that turns out too large is told so, not given a short file', async () => {
  const outcome = vi.fn()
  const { upload } = await serveUpload({
    limits: { ...MULTIPART_LIMITS, fileBytesMax: MB },
    onFile: async (_file, bytes) => {
      try {
        for await (const _ of bytes);
        outcome('whole')
      } catch (error) {
        outcome((error as AppError).code)
        throw error
      }
    },
  })
  expect((await upload(form({ a: new File(['x'.repeat(3 * MB)], 'a') }))).status).toBe(413)
  expect(outcome.mock.calls).toEqual([['payload_too_large']])
})

test('300 MB are refused with an answer the client can read, declared or not', async () => {
  const { url } = await serveUpload()
  for (const length of [{ 'content-length': String(300 * MB) }, {}]) {
    const headers = { 'content-type': 'multipart/form-data; boundary=x', ...length }
    const status = await new Promise((resolve, reject) => {
      const req = request(`${url}/upload`, { method: 'POST', headers }, (response) => resolve(response.statusCode))
      req.on('error', reject)
      req.write(part('big', '').slice(0, -2))
      const pour = () => {
        while (req.write(Buffer.alloc(MB, 'x')));
      }
      req.on('drain', pour)
      pour()
      req.on('response', () => req.destroy())
    })
    expect(status).toBe(413)
  }
})

test.each([
  ['without an end', `${part('a', 'abc')}`],
  ['cut off in a file', '--x\r\ncontent-disposition: form-data; name="f"; filename="a"\r\n\r\nabc'],
  ['that is empty', ''],
  ['of something else', 'hello'],
])('a multipart body %s is 400', async (_what, body) => {
  const { port } = await serveUpload()
  expect(await raw(port, body)).toMatch(/^HTTP\/1.1 400 .*"code":"invalid_request"/s)
})

test('a multipart body without a boundary is 400, another media type 415', async () => {
  const { port } = await serveUpload()
  expect(await raw(port, part('a', 'b'), 'multipart/form-data')).toMatch(/^HTTP\/1.1 400 /)
  expect(await raw(port, '{}', 'application/json')).toMatch(/^HTTP\/1.1 415 /)
})

test('a body that comes a byte at a time, without end, is given up', async () => {
  const { port } = await serveUpload({ limits: { ...SMALL, msMax: 200 } })
  const socket = connect(port, '127.0.0.1')
  let received = ''
  socket.on('data', (chunk) => {
    received += chunk
  })
  socket.write('POST /upload HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=x\r\n')
  socket.write(`content-length: 1000\r\n\r\n${part('a.txt', '').trimEnd()}\r\n\r\n`)
  const drip = setInterval(() => socket.write('.'), 10)
  onTestFinished(() => {
    clearInterval(drip)
    socket.destroy()
  })
  await vi.waitUntil(() => received.includes('\r\n\r\n{'), PATIENT)
  expect(received).toMatch(/^HTTP\/1.1 400 [\s\S]*did not arrive within/)
})

test('a client that leaves in the middle of a file ends whoever takes it', async () => {
  const outcome = vi.fn()
  const { port, lines } = await serveUpload({
    onFile: async (_file, bytes) => {
      for await (const _ of bytes) outcome('some')
    },
  })
  const headers = { 'content-type': 'multipart/form-data; boundary=x' }
  const req = request({ port, method: 'POST', path: '/upload', headers })
  req.on('error', () => {})
  req.write(part('a', 'x'.repeat(200_000)))
  await vi.waitUntil(() => outcome.mock.calls.length > 0, PATIENT)
  req.destroy()
  await vi.waitUntil(() => lines.length > 0, PATIENT)
  expect(lines).toMatchObject([{ level: 'info', status: 400, code: 'invalid_request' }])
})

test('what the taker of a file throws is the answer, and later files are not begun', async () => {
  const begun = vi.fn()
  const { upload } = await serveUpload({
    onFile: async ({ name }) => {
      begun(name)
      throw new AppError('saturated', 'No room')
    },
  })
  const entries = { a: new File(['x'.repeat(2 * MB)], 'a'), b: new File(['b'], 'b') }
  expect(await upload(form(entries))).toMatchObject({ status: 503, body: { code: 'saturated' } })
  expect(begun.mock.calls).toEqual([['a']])
})

test('a file that its taker does not read to the end does not hold up the next', async () => {
  const begun = vi.fn()
  const { upload } = await serveUpload({
    onFile: async ({ name }, bytes) => {
      begun(name)
      for await (const _ of bytes) break
    },
  })
  const entries = { a: new File(['x'.repeat(2 * MB)], 'a'), b: new File(['x'.repeat(2 * MB)], 'b'), note: 'hi' }
  expect(await upload(form(entries))).toMatchObject({ status: 200, body: { fields: { note: 'hi' } } })
  expect(begun.mock.calls).toEqual([['a'], ['b']])
})

test.each([
  ['../../etc/passwd', 'passwd'],
  ['C:\\temp\\a.txt', 'a.txt'],
  ['', 'file'],
  ['x'.repeat(500), 'x'.repeat(255)],
])('the file name %j becomes %j', async (given, name) => {
  const { port, seen } = await serveUpload()
  await raw(port, `${part(given, 'b')}--x--\r\n`)
  expect(seen).toMatchObject([{ name }])
})
