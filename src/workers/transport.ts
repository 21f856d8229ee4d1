import { constants, createServer, type Http2ServerRequest, type Http2ServerResponse } from 'node:http2'
import type { Duplex } from 'node:stream'
import { errorLine } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import { readTraceparent } from '../lib/traceparent.ts'
import { parseReport, parseStep } from './frames.ts'
import { createLineReader, FENCE_HEADER, LINE_BYTES_MAX, type Report, RUN_HEADER, TRACE_HEADER } from './protocol.ts'
import type { RunRef, WorkerRequests } from './turn.ts'

/** One stream may carry a megabyte before it is read; the whole connection eight. */
const STREAM_WINDOW_BYTES = 1024 * 1024
const SESSION_WINDOW_BYTES = 8 * 1024 * 1024
/** How often a worker that was held back is looked at again. */
const HOLD_MS = 50
/** A turn has a session, one model call and perhaps a step; tools of one step may run at the same time. */
const STREAMS_MAX = 64

type CurrentRun = RunRef & {
  provider: string
  /** Ids for the log. */
  about: Record<string, string>
}

/** The gateway's end of a worker's socketpair. */
export interface WorkerLink {
  /** Sends one encoded command. False when the worker has not opened its session, or it is gone. */
  send(line: string): boolean
  /** Cuts the requests that the ended turn has left open, and with them their calls upstream. */
  endRequests(): void
}

export interface LinkDeps {
  requests: WorkerRequests
  log: Logger
  /** The turn that the worker may act for now. */
  currentRun(): CurrentRun | undefined
  onReport(report: Report): void
  /** The worker is alive, as far as can be seen through what it asks or while it is held back. */
  onSign(): void
  /** False while the reader of the reports can't take more. */
  hasRoom(): boolean
  /** The worker closed its session, or said what no worker may say. It must be ended. */
  onBroken(reason: string): void
}

/**
 * Serves one worker over its socketpair. The descriptor is the identity: whatever comes through it is this worker's,
 * and is refused unless it names the run and fence of the turn that runs now.
 */
export function serveWorker(socket: Duplex, deps: LinkDeps): WorkerLink {
  const session = createSession(deps)
  const open = new Set<Http2ServerResponse>()
  const server = createServer(
    { settings: { initialWindowSize: STREAM_WINDOW_BYTES, maxConcurrentStreams: STREAMS_MAX } },
    (req, res) => {
      // A stream that the worker resets says so on either object; without listeners that would end the gateway.
      req.on('error', () => {})
      res.on('error', () => {})
      deps.onSign()
      if (req.url === '/session') return session.open(req, res)
      open.add(res)
      res.once('close', () => open.delete(res))
      answer({ ...deps, caughtUp: session.caughtUp }, req, res)
    },
  )
  server.on('session', (http2) => {
    http2.setLocalWindowSize(SESSION_WINDOW_BYTES)
    http2.once('close', () => deps.onBroken('the connection closed'))
  })
  server.on('sessionError', (error) => deps.onBroken(errorLine(error)))
  server.emit('connection', socket)
  return {
    send: session.send,
    endRequests() {
      for (const res of open) res.stream.close(constants.NGHTTP2_CANCEL)
    },
  }
}

/**
 * `POST /session`, of which a worker has one. Lines are read as they come, never queued (see the order in
 * protocol.ts), but while there is no room nothing is read, and flow control stops the worker.
 */
function createSession(deps: LinkDeps) {
  let down: Http2ServerResponse | undefined
  let held: Promise<void> | undefined

  function hold(req: Http2ServerRequest) {
    if (held || deps.hasRoom()) return
    req.pause()
    const { promise, resolve } = Promise.withResolvers<void>()
    held = promise
    const timer = setInterval(() => {
      deps.onSign()
      if (!deps.hasRoom()) return
      clearInterval(timer)
      held = undefined
      req.resume()
      // What waited in the stream is read before this runs.
      setImmediate(resolve)
    }, HOLD_MS)
  }

  function readReports(req: Http2ServerRequest) {
    const read = createLineReader({
      bytesMax: LINE_BYTES_MAX,
      onLine(line) {
        const report = parseReport(line)
        if (report) deps.onReport(report)
        else deps.onBroken('a line that is no report')
      },
      onOverflow: () => deps.onBroken(`a line longer than ${LINE_BYTES_MAX} bytes`),
    })
    req.on('data', (chunk: Buffer) => {
      read(chunk)
      hold(req)
    })
  }

  return {
    open(req: Http2ServerRequest, res: Http2ServerResponse) {
      if (down) return deps.onBroken('a second session')
      down = res
      res.writeHead(200)
      readReports(req)
      res.once('close', () => deps.onBroken('the session closed'))
    },
    /** Resolves when all reports that have arrived are read. */
    async caughtUp() {
      while (held) await held
    },
    send(line: string): boolean {
      if (!down || down.stream.destroyed || down.stream.closed) return false
      down.write(`${line}\n`)
      return true
    },
  }
}

function answer(deps: AnswerDeps, req: Http2ServerRequest, res: Http2ServerResponse) {
  const run = deps.currentRun()
  const isCurrent =
    run !== undefined && req.headers[RUN_HEADER] === run.runId && req.headers[FENCE_HEADER] === String(run.fence)
  const model = /^\/model\/([^/?]+)(\/.*)$/.exec(req.url)
  if (model) {
    if (!isCurrent) return end(res, 403)
    return answerModel(deps, {
      req,
      res,
      args: { provider: model[1]!, path: model[2]!, run, traceparent: traceparentOf(req) },
    })
  }
  if (req.method !== 'POST' || (req.url !== '/steps' && req.url !== '/steer')) return end(res, 404)
  if (!isCurrent) return end(res, 409)
  const answered = req.url === '/steps' ? answerStep(deps, req, run) : answerSteer(deps, run)
  answered.then(
    ({ status, body }) => end(res, status, body),
    (error) => {
      deps.log.warn({ ...run.about, err: errorLine(error), path: req.url }, 'a request of a worker failed')
      end(res, 503)
    },
  )
}

function traceparentOf(req: Http2ServerRequest): string | undefined {
  const given = req.headers[TRACE_HEADER]
  return typeof given === 'string' && readTraceparent(given) ? given : undefined
}

/** Whatever goes wrong in there is one call's trouble. */
function answerModel({ requests, log }: LinkDeps, { req, res, args }: ModelCall) {
  new Promise((resolve) => resolve(requests.model(req, res, args))).catch((error: unknown) => {
    log.error({ ...args.run.about, err: errorLine(error) }, 'the model proxy threw')
    if (res.headersSent) res.stream.close(constants.NGHTTP2_INTERNAL_ERROR)
    else end(res, 500)
  })
}

interface ModelCall {
  req: Http2ServerRequest
  res: Http2ServerResponse
  args: Parameters<WorkerRequests['model']>[2]
}

type AnswerDeps = LinkDeps & { caughtUp(): Promise<void> }

interface Answer {
  status: number
  body?: string
}

async function answerStep({ requests, caughtUp }: AnswerDeps, req: Http2ServerRequest, run: RunRef): Promise<Answer> {
  const body = await readBody(req)
  if (body === undefined) return { status: 413 }
  const step = parseStep(body)
  if (!step) return { status: 400 }
  await caughtUp()
  if (step.runId !== run.runId || step.fence !== run.fence) return { status: 409 }
  return { status: (await requests.saveStep(step)) === 'saved' ? 204 : 409 }
}

async function answerSteer({ requests }: LinkDeps, { runId, fence }: RunRef): Promise<Answer> {
  return { status: 200, body: JSON.stringify({ messages: await requests.takeSteer({ runId, fence }) }) }
}

/** The body as text, or undefined when it is too long. Rejects when the worker breaks off. */
function readBody(req: Http2ServerRequest): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let bytes = 0
    req.on('data', (chunk: Buffer) => {
      bytes += chunk.length
      if (bytes <= LINE_BYTES_MAX) chunks.push(chunk)
      else resolve(undefined)
    })
    req.once('end', () => resolve(Buffer.concat(chunks).toString('utf8')))
    req.once('close', () => reject(new Error('the worker broke off')))
  })
}

function end(res: Http2ServerResponse, status: number, body?: string) {
  if (res.stream.destroyed || res.headersSent) return
  res.writeHead(status, body === undefined ? {} : { 'content-type': 'application/json' })
  res.end(body ?? '')
}
