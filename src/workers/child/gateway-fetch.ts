import { type ClientHttp2Session, type ClientHttp2Stream, constants, type IncomingHttpHeaders } from 'node:http2'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'

/** Bytes of a response that wait in this process for a slow consumer; beyond, HTTP/2 flow control stops the gateway. */
const BODY_BUFFER_BYTES = 256 * 1024
/** Meaningless or forbidden in HTTP/2 (RFC 9113 §8.2.2). */
const HOP_HEADERS = new Set(['host', 'connection', 'transfer-encoding', 'keep-alive', 'upgrade', 'te'])

/**
 * A `fetch` whose every request is a stream of `session`; it opens no socket. Bodies stream in both directions with
 * backpressure, and an abort resets the stream, so that the gateway stops the call upstream.
 *
 * A response that the gateway cuts short errors the body with `TypeError: terminated`; it never looks complete.
 *
 * @param stamp headers added to each request, such as the run that it belongs to.
 */
export function createGatewayFetch(session: ClientHttp2Session, stamp: () => Record<string, string>): typeof fetch {
  return async (input, init) => {
    const request = new Request(input, init?.body ? { ...init, duplex: 'half' } : init)
    // Not the request's own signal, which follows the caller's only until the request is garbage.
    const signal = init?.signal ?? (input instanceof Request ? input.signal : undefined)
    signal?.throwIfAborted()
    const stream = session.request(requestHeaders(request, init?.body, stamp()), { endStream: request.body === null })
    const onAbort = () => stream.close(constants.NGHTTP2_CANCEL)
    signal?.addEventListener('abort', onAbort, { once: true })
    stream.once('close', () => signal?.removeEventListener('abort', onAbort))
    if (request.body) sendBody(request.body, stream)
    return responseOf(stream, signal)
  }
}

function requestHeaders(request: Request, body: RequestInit['body'], stamp: Record<string, string>) {
  const url = new URL(request.url)
  const headers: Record<string, string> = {
    ':method': request.method,
    ':scheme': url.protocol.slice(0, -1),
    ':authority': url.host,
    ':path': url.pathname + url.search,
  }
  for (const [name, value] of request.headers) if (!HOP_HEADERS.has(name)) headers[name] = value
  // The request body is a stream by now and has forgotten its length, which some providers want to know.
  if (typeof body === 'string') headers['content-length'] = String(Buffer.byteLength(body))
  return Object.assign(headers, stamp)
}

/** A body that can't be sent resets the stream; whoever waits for the response hears of it there. */
function sendBody(body: ReadableStream, stream: ClientHttp2Stream) {
  pipeline(Readable.fromWeb(body as Parameters<typeof Readable.fromWeb>[0]), stream, { end: true }).catch(() => {
    if (!stream.closed) stream.close(constants.NGHTTP2_CANCEL)
  })
}

function responseOf(stream: ClientHttp2Stream, signal: AbortSignal | undefined): Promise<Response> {
  return new Promise((resolve, reject) => {
    stream.once('response', (fields) => {
      const status = Number(fields[':status'])
      const hasBody = status !== 204 && status !== 205 && status !== 304
      if (!hasBody) stream.resume()
      resolve(new Response(hasBody ? bodyOf(stream, signal) : null, { status, headers: responseHeaders(fields) }))
    })
    // `close` always comes and says enough; without a listener `error` would end the process.
    stream.on('error', () => {})
    // The wording is what `ai` takes for a connection error, which it tries again.
    stream.once('close', () => {
      reject(signal?.aborted ? signal.reason : new TypeError('fetch failed', { cause: resetError(stream) }))
    })
  })
}

function responseHeaders(fields: IncomingHttpHeaders): Headers {
  const headers = new Headers()
  for (const [name, value] of Object.entries(fields)) {
    if (name.startsWith(':') || value === undefined) continue
    for (const one of Array.isArray(value) ? value : [value]) headers.append(name, one)
  }
  return headers
}

function bodyOf(stream: ClientHttp2Stream, signal: AbortSignal | undefined): ReadableStream<Uint8Array> {
  let ended = false
  return new ReadableStream<Uint8Array>(
    {
      start(controller) {
        stream.on('data', (chunk: Buffer) => {
          // What was on its way when the reader gave up. Taking it here would throw, and end the worker.
          if (ended) return
          controller.enqueue(chunk)
          if ((controller.desiredSize ?? 0) <= 0) stream.pause()
        })
        // A reset stream may `end` as well; only `close` tells the two apart.
        stream.once('close', () => {
          if (ended) return
          ended = true
          if (signal?.aborted) controller.error(signal.reason)
          else if (stream.rstCode !== constants.NGHTTP2_NO_ERROR) {
            controller.error(new TypeError('terminated', { cause: resetError(stream) }))
          } else controller.close()
        })
      },
      pull() {
        stream.resume()
      },
      cancel() {
        ended = true
        stream.close(constants.NGHTTP2_CANCEL)
      },
    },
    new ByteLengthQueuingStrategy({ highWaterMark: BODY_BUFFER_BYTES }),
  )
}

function resetError(stream: ClientHttp2Stream): Error {
  return Object.assign(new Error(`the gateway closed the stream (HTTP/2 code ${stream.rstCode})`), {
    code: 'ECONNRESET',
  })
}
