/**
 * What the tests of this family share: a fake vendor on loopback, and a worker's HTTP/2 session to a gateway that
 * has only the proxy in it.
 */
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import http from 'node:http'
import http2 from 'node:http2'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { pino } from 'pino'
import { expect, vi } from 'vitest'
import type { ProviderSettings } from './contract.ts'
import { createModelProxy, type ModelProxy } from './proxy.ts'

export const REAL_KEY = 'real-key'
export const PLACEHOLDER = 'placeholder-of-the-worker'
export const CONTINUE_NOTE = 'Go on where you stopped.'

/** Ends what a test started, last first. */
export interface Cleanup {
  add(end: () => unknown): void
  run(): Promise<void>
}

export function createCleanup(): Cleanup {
  const ends: (() => unknown)[] = []
  return {
    add: (end) => ends.push(end),
    async run() {
      for (const end of ends.splice(0).reverse()) await end()
    },
  }
}

export interface Seen {
  method: string
  url: string
  headers: http.IncomingHttpHeaders
  body: string
}

/** A vendor that is given each request after its body has come, and keeps what it saw. */
export async function startUpstream(
  cleanup: Cleanup,
  answer: (seen: Seen, res: http.ServerResponse) => unknown,
): Promise<{ baseUrl: string; seen: Seen[] }> {
  const seen: Seen[] = []
  const server = http.createServer(async (req, res) => {
    const body = await text(req).catch(() => undefined)
    if (body === undefined) return
    const entry = { method: req.method ?? '', url: req.url ?? '', headers: req.headers, body }
    seen.push(entry)
    await answer(entry, res)
  })
  return { baseUrl: `${await listen(cleanup, server)}/v1`, seen }
}

/** Listens on a free loopback port; the cleanup closes it with all its connections. */
async function listen(cleanup: Cleanup, server: http.Server): Promise<string> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  cleanup.add(async () => {
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

export interface Rig {
  proxy: ModelProxy
  session: http2.ClientHttp2Session
  /** `fetch` as a worker has it: every request goes to the gateway over the one session. */
  fetch: typeof globalThis.fetch
  /** Log lines so far. */
  lines: Record<string, unknown>[]
}

/** A gateway with only the model proxy, and one worker whose run belongs to `provider`. */
export async function startRig(
  cleanup: Cleanup,
  provider: string,
  providers: Record<string, ProviderSettings>,
  ownKey?: (run: { runId: string; fence: number; provider: string }) => Promise<string | undefined>,
): Promise<Rig> {
  const lines: Record<string, unknown>[] = []
  const log = pino({ level: 'debug' }, { write: (line: string) => lines.push(JSON.parse(line)) })
  const proxy = createModelProxy({ log, providers, continueNote: CONTINUE_NOTE, ...(ownKey ? { ownKey } : {}) })
  const server = http2.createServer((req, res) => {
    const [, name = '', path = ''] = /^\/model\/([^/]*)(\/.*)$/.exec(req.url) ?? []
    proxy(req, res, { provider: name, path, run: { runId: 'run-1', fence: 7, provider } })
  })
  server.on('sessionError', () => {})
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const session = http2.connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  session.on('error', () => {})
  cleanup.add(async () => {
    session.destroy()
    await proxy.close()
    server.close()
    await once(server, 'close')
  })
  return { proxy, session, fetch: createSessionFetch(session), lines }
}

/** A recording of the folder `fixtures/<id>/`. */
export function readFixture(id: string, name: string): Promise<string> {
  return readFile(new URL(`fixtures/${id}/${name}`, import.meta.url), 'utf8')
}

function createSessionFetch(session: http2.ClientHttp2Session): typeof globalThis.fetch {
  return async (input, init) => {
    const request = new Request(input, init)
    const { pathname, search } = new URL(request.url)
    const body = Buffer.from(await request.arrayBuffer())
    const headers = { ...Object.fromEntries(request.headers), 'content-length': String(body.length) }
    const stream = session.request({ ...headers, ':method': request.method, ':path': `${pathname}${search}` })
    stream.end(body)
    const abort = () => stream.close(http2.constants.NGHTTP2_CANCEL)
    request.signal.addEventListener('abort', abort, { once: true })
    stream.on('error', () => {})
    const [answer] = await once(stream, 'response', { signal: request.signal })
    return new Response(Readable.toWeb(stream) as ReadableStream<Uint8Array>, {
      status: answer[':status'],
      headers: Object.entries(answer).filter(([name]) => !name.startsWith(':')) as [string, string][],
    })
  }
}

export interface Reply {
  status: number
  headers: http2.IncomingHttpHeaders
  body: string
}

/** One request over the session, read to its end. Rejects when the stream is cut. */
export async function ask(
  session: http2.ClientHttp2Session,
  path: string,
  { body = '{}', ...headers }: http2.OutgoingHttpHeaders & { body?: string } = {},
): Promise<Reply> {
  const stream = post(session, path, headers)
  stream.end(body)
  const [answer] = await once(stream, 'response')
  return { status: answer[':status'], headers: answer, body: await text(stream) }
}

/** Opens a POST and leaves its body to the caller. */
export function post(
  session: http2.ClientHttp2Session,
  path: string,
  headers: http2.OutgoingHttpHeaders = {},
): http2.ClientHttp2Stream {
  return session.request({ 'content-type': 'application/json', ...headers, ':method': 'POST', ':path': path })
}

/** A vendor whose requests the test answers by hand, body unread. */
export async function startRawUpstream(cleanup: Cleanup, onRequest: http.RequestListener): Promise<string> {
  return `${await listen(cleanup, http.createServer(onRequest))}/v1`
}

/** The error object in a refusal's body. */
export function errorOf(body: string): { type: string; message: string } {
  return JSON.parse(body).error
}

/** Resolves when a counter has stood still for a while: whoever moves it is held back, or done. */
export async function untilStill(count: () => number): Promise<number> {
  let last = { count: -1, at: 0 }
  await vi.waitFor(
    () => {
      if (count() !== last.count) last = { count: count(), at: performance.now() }
      expect(count() > 0 && performance.now() - last.at > 400).toBe(true)
    },
    { timeout: 20_000, interval: 20 },
  )
  return count()
}
