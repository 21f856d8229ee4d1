import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import { getRequestListener, RequestError } from '@hono/node-server'
import { errorLine } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import { settlesWithin } from '../lib/settles-within.ts'
import { sleep } from '../lib/sleep.ts'
import { answerBeforeBody, continueOnFirstRead } from './early-end.ts'
import type { Router } from './router.ts'

/** Above the 60 s after which common load balancers drop an idle connection: they must be the ones that close it. */
const KEEP_ALIVE_MS = 75_000
/** From the first byte of a request to the end of its headers. */
const HEADERS_MS_MAX = 30_000
/** Room for large cookies and tokens; Node's default of 16 KiB is easily met behind identity proxies. */
const HEADER_BYTES_MAX = 32_768
/** So long after its last answer a server that stops takes what comes on connections that were open before. */
const QUIET_MS = 50
/** Connections that the kernel completes before we accept them: a burst of reconnecting streams must fit. */
const BACKLOG = 4_096
/** Connections above the limit that are still told why they are refused. */
const ANSWERED_ABOVE_MAX = 1_000
/** Who looks after replicas must be able to ask a full one. */
const HEALTH = /^\/health\b/

export interface HttpServer {
  readonly name: string
  /** Listens; resolves with the port, which is a free one when 0 was asked for. May be called twice. @throws Error with what to do about it. */
  start(): Promise<number>
  /** From the next request on, this is what answers. */
  serveWith(app: Router): void
  /** Takes no new connections, closes idle ones, and ends each active one after its response. */
  stopAccepting(): void
  /** Goes on as before, but asks every client, with its next answer, to make its next connection elsewhere. */
  sendElsewhere(): void
  /**
   * `stopAccepting`, then waits up to `graceMs`, or until `signal`, for active requests and cuts what is left. May be
   * called twice or first.
   */
  stop(options?: { graceMs: number; signal?: AbortSignal }): Promise<void>
}

interface Answering {
  /** Resolves when the handler is done. */
  answered: Promise<unknown>
  /** Who listened to the end of the response before any handler did. */
  kept: unknown[]
}

/**
 * The one HTTP server. Requests have no time limit, since event streams last for hours: headers have one here, bodies
 * where they are read (`body.ts`, `multipart.ts`).
 */
export function createHttpServer(
  { app, log }: { app: Router; log: Logger },
  options: { port: number; host: string; connectionsMax?: number },
): HttpServer {
  const { port, host, connectionsMax = Number.POSITIVE_INFINITY } = options
  const active = new Set<ServerResponse>()
  let arrived = 0
  let isLeaving = false
  let connections = 0
  const tooMany = new WeakSet<Duplex>()
  let closed: Promise<void> | undefined
  let stopped: Promise<void> | undefined

  let router = app
  let listening: Promise<number> | undefined
  const listener = getRequestListener((request, env) => router.fetch(request, env as never), {
    errorHandler: (error) => refuseUnroutable(error, log),
    autoCleanupIncoming: false,
  })
  const server = createServer({
    keepAliveTimeout: KEEP_ALIVE_MS,
    maxHeaderSize: HEADER_BYTES_MAX,
    requestTimeout: 0,
    // Node would answer with an empty body; `refuseUnroutable` says what is wrong.
    requireHostHeader: false,
  })
  server.headersTimeout = HEADERS_MS_MAX
  // Who comes beyond the answerable ones is not answered at all: that too would take memory.
  server.maxConnections = connectionsMax + ANSWERED_ABOVE_MAX
  server.on('connection', (socket) => {
    if (++connections > connectionsMax) tooMany.add(socket)
    socket.on('close', countDown)
  })
  server.on('request', (incoming, outgoing) => handle(incoming, outgoing, () => true))
  server.on('checkContinue', (incoming, outgoing) => {
    handle(incoming, outgoing, continueOnFirstRead(incoming, outgoing))
  })
  server.on('checkExpectation', (_incoming, outgoing) => {
    const error = 'The Expect header asks for what this server does not do'
    outgoing.statusCode = 417
    outgoing.setHeader('content-type', 'application/json')
    outgoing.end(JSON.stringify({ error, code: 'invalid_request' }))
  })
  server.on('clientError', (error, socket) => {
    // In the middle of a response there is no place for another one.
    const answering = [...active].some((outgoing) => outgoing.socket === socket && outgoing.headersSent)
    answerClientError(error, socket, answering)
  })

  function countDown() {
    connections--
  }

  function handle(incoming: IncomingMessage, outgoing: ServerResponse, isBodyWanted: () => boolean) {
    active.add(outgoing)
    arrived++
    outgoing.on('close', forget)
    if (tooMany.has(incoming.socket) && !HEALTH.test(incoming.url ?? '')) return refuseConnection(outgoing)
    if (isLeaving) outgoing.shouldKeepAlive = false
    if (announcesBody(incoming)) answerBeforeBody({ incoming, outgoing }, isBodyWanted)
    const answered = listener(incoming, outgoing)
    void letGo(outgoing, { answered, kept: outgoing.listeners('close') })
  }

  /**
   * The library keeps the request until its response is closed, to tell who works on it. Behind an event stream, which is open
   * for hours, nobody works on a request any more.
   */
  async function letGo(outgoing: ServerResponse, { answered, kept }: Answering) {
    await answered
    if (outgoing.writableEnded || !outgoing.headersSent) return
    for (const listener of kept) if (listener !== forget) outgoing.off('close', listener as () => void)
  }

  function forget(this: ServerResponse) {
    active.delete(this)
    // Its headers may have promised keep-alive before we knew; the connection counts as idle only after this event.
    if (closed) setImmediate(() => server.closeIdleConnections())
  }

  function sendElsewhere() {
    isLeaving = true
    for (const outgoing of active) if (!outgoing.headersSent) outgoing.shouldKeepAlive = false
  }

  function stopAccepting(): Promise<void> {
    sendElsewhere()
    // The callback comes when the last connection is gone, or at once when the server never listened.
    closed ??= new Promise((resolve) => server.close(() => resolve()))
    return closed
  }

  async function stop(graceMs: number, signal?: AbortSignal) {
    const gone = stopAccepting()
    const over = new AbortController()
    // Connections that ask for nothing are not waited for; Node takes a fresh one for active.
    await settlesWithin(Promise.race([gone, untilQuiet(over.signal)]), graceMs, signal)
    over.abort()
    server.closeAllConnections()
    await gone
  }

  /** Resolves when all requests are answered, those included that were in a socket when the server stopped accepting. */
  async function untilQuiet(over: AbortSignal) {
    for (let seen = -1; !over.aborted && seen !== arrived; ) {
      seen = arrived
      await Promise.all([...active].map((outgoing) => new Promise((resolve) => outgoing.once('close', resolve))))
      await sleep(QUIET_MS)
      // In a loop that was late, sockets come behind the timers.
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  return {
    name: 'http',
    start() {
      listening ??= listen(server, { port, host, log })
      return listening
    },
    serveWith(next) {
      router = next
    },
    sendElsewhere,
    stopAccepting: () => void stopAccepting(),
    stop({ graceMs, signal } = { graceMs: 5_000 }) {
      stopped ??= stop(graceMs, signal)
      return stopped
    },
  }
}

function listen(server: Server, { port, host, log }: { port: number; host: string; log: Logger }): Promise<number> {
  return new Promise((resolve, reject) => {
    const refused = (error: NodeJS.ErrnoException) => reject(listenError(error, { port, host }))
    server.once('error', refused)
    server.listen({ port, host, backlog: BACKLOG }, () => {
      server.off('error', refused)
      server.on('error', (error) => log.error({ err: errorLine(error) }, 'http server failed'))
      resolve((server.address() as AddressInfo).port)
    })
  })
}

function listenError(error: NodeJS.ErrnoException, { port, host }: { port: number; host: string }): Error {
  const sentences: Record<string, string> = {
    EADDRINUSE: `Port ${port} on ${host} is already in use. Stop the program that uses it, or set PORT to another port.`,
    EACCES: `This user may not listen on port ${port}. Set PORT to a port above 1023.`,
    EADDRNOTAVAIL: `${host} is not an address of this machine. Set HOST to one that is, or to 0.0.0.0.`,
    ENOTFOUND: `The host name ${host} cannot be resolved. Set HOST to an address of this machine.`,
  }
  const sentence = sentences[error.code ?? '']
  return sentence ? new Error(sentence, { cause: error }) : error
}

/** Of a replica that has as many connections as it may: the connection ends with the answer. */
function refuseConnection(outgoing: ServerResponse) {
  const error = 'This replica has as many connections as it may; try again'
  outgoing.writeHead(503, { 'content-type': 'application/json', 'retry-after': '1', connection: 'close' })
  outgoing.end(JSON.stringify({ error, code: 'saturated' }))
}

function announcesBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0'
}

/** What fails before Hono has a request to answer: a broken Host header or URL. All else is a bug of ours. */
function refuseUnroutable(error: unknown, log: Logger): Response {
  if (error instanceof RequestError) {
    return Response.json({ error: 'The URL or the Host header is malformed', code: 'invalid_request' }, { status: 400 })
  }
  log.error({ err: errorLine(error) }, 'request failed outside of its handler')
  return Response.json({ error: 'Something went wrong on our side', code: 'internal' }, { status: 500 })
}

/** Bytes that are not HTTP, headers over the limit, headers that never end. The socket may be gone already. */
function answerClientError(error: NodeJS.ErrnoException, socket: Duplex, answering: boolean): void {
  if (answering || !socket.writable || error.code === 'ECONNRESET') return void socket.destroy()
  const [status, message] =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? [431, `The request headers are larger than ${HEADER_BYTES_MAX} bytes`]
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? [408, 'The request headers took too long']
        : [400, 'This is not valid HTTP']
  const body = JSON.stringify({ error: message, code: 'invalid_request' })
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: application/json\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`,
  )
}
