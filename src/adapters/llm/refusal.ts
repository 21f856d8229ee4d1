import type { Http2ServerResponse } from 'node:http2'
import { constants } from 'node:http2'
import { errors } from 'undici'
import { errorBody } from './contract.ts'

/** What the worker is told instead of an answer. The message is read by the agent's owner: safe to show, and useful. */
export class Refusal extends Error {
  readonly status: number
  readonly type: string

  constructor(status: number, type: string, message: string, options: { cause?: unknown } = {}) {
    super(message, options)
    this.name = 'Refusal'
    this.status = status
    this.type = type
  }
}

/** An upstream that did not answer at all, in words that say what to look at. */
export function upstreamRefusal(cause: unknown, variable: string): Refusal {
  if (cause instanceof errors.HeadersTimeoutError) {
    return new Refusal(504, 'upstream_timeout', 'The model provider did not begin to answer in time.', { cause })
  }
  const message = `The model provider cannot be reached. Check the network and ${variable}.`
  return new Refusal(502, 'upstream_unreachable', message, { cause })
}

/** Ends a response with a refusal. After the headers have gone only a reset can tell that the answer is not whole. */
export function sendRefusal(res: Http2ServerResponse, { status, type, message }: Refusal): void {
  if (res.headersSent) {
    cutStream(res)
    return
  }
  const body = errorBody(status, type, message)
  res.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) })
  res.end(body)
}

/** Tells the worker by a reset that what it got is not the whole answer. */
export function cutStream(res: Http2ServerResponse): void {
  res.stream.close(constants.NGHTTP2_INTERNAL_ERROR)
}
