import { Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import type { Context, MiddlewareHandler } from 'hono'
import { AppError } from '../lib/errors.ts'
import type { Env } from './env.ts'

/** Of a JSON body: the longest message is 100,000 characters, and a character is at most four bytes or `\uXXXX`. */
export const JSON_BYTES_MAX = 1_048_576
/** Deeper JSON is an attack on whoever walks it recursively, such as `JSON.stringify`. */
const JSON_DEPTH_MAX = 64
/** The server sets no limit to a request's duration, since streams have none; so a body has its own. */
const BODY_MS_MAX = 30_000
const JSON_TYPE = /^application\/([\w.-]+\+)?json$/

/**
 * Reads a whole request body, at most `bytesMax` bytes of it. For webhooks, whose signature covers the raw bytes.
 * To be called once for a request, and instead of `c.req.text()` and its like.
 *
 * @throws AppError 'payload_too_large' as soon as it is known, before more is kept; 'invalid_request' when the body
 *   does not arrive within 30 s or the connection breaks.
 */
export async function readBody(c: Context<Env>, { bytesMax = JSON_BYTES_MAX } = {}): Promise<Buffer> {
  const declared = Number(c.req.header('content-length') ?? 0)
  if (declared > bytesMax) throw tooLarge(bytesMax)
  return collect(bodyStream(c), bytesMax)
}

/**
 * Reads a JSON body within bounds and leaves its text where `c.req.json()` and the zod validators look for it.
 * `createRouter` puts it before each route that takes JSON. Other media types that the route declares pass unread;
 * no body at all passes too, and an empty one counts as `{}`.
 *
 * @throws AppError 'unsupported_media_type', 'payload_too_large', or 'invalid_request' for bad UTF-8 and deep nesting.
 */
export function jsonBody({
  mediaTypes = ['application/json'],
  bytesMax = JSON_BYTES_MAX,
} = {}): MiddlewareHandler<Env> {
  return async (c, next) => {
    if (c.req.bodyCache.text === undefined) {
      if (!hasBody(c)) cacheText(c, '{}')
      else if (requireMediaType(c, mediaTypes) === 'json') cacheText(c, await readJson(c, bytesMax))
    }
    await next()
  }
}

async function readJson(c: Context<Env>, bytesMax: number): Promise<string> {
  const bytes = await readBody(c, { bytesMax })
  refuseDeepJson(bytes)
  return bytes.length === 0 ? '{}' : decodeUtf8(bytes)
}

/** Hono keeps promises in this cache, whatever its types say. */
function cacheText(c: Context<Env>, text: string): void {
  const cache: { text?: Promise<string> } = c.req.bodyCache as object
  cache.text = Promise.resolve(text)
}

function requireMediaType(c: Context<Env>, accepted: string[]): 'json' | 'other' {
  const encoding = c.req.header('content-encoding')
  if (encoding !== undefined && encoding.toLowerCase() !== 'identity') {
    throw new AppError('unsupported_media_type', 'Send the body without Content-Encoding')
  }
  const given = (c.req.header('content-type') ?? '').split(';')[0]!.trim().toLowerCase()
  const isJson = JSON_TYPE.test(given)
  if (isJson && accepted.some((type) => JSON_TYPE.test(type))) return 'json'
  if (accepted.includes(given)) return 'other'
  const named = given === '' ? 'no Content-Type was sent' : `not ${given.slice(0, 100)}`
  throw new AppError('unsupported_media_type', `Send the body as ${accepted.join(' or ')}; ${named}`)
}

/** By the headers alone, as HTTP/1.1 defines it: https://www.rfc-editor.org/rfc/rfc9112#section-6.3 */
function hasBody(c: Context<Env>): boolean {
  if (c.req.header('transfer-encoding') !== undefined) return true
  const length = c.req.header('content-length')
  if (length !== undefined) return length !== '0'
  // Without a server nobody writes these headers.
  return c.env?.incoming === undefined && c.req.raw.body !== null
}

/** The body as a Node stream: the request itself under a server, the Fetch body in `app.request()`. */
export function bodyStream(c: Context<Env>): Readable {
  const incoming = c.env?.incoming as Readable | undefined
  if (incoming) return incoming
  const body = c.req.raw.body as ReadableStream | null
  return body ? Readable.fromWeb(body) : Readable.from([])
}

function collect(source: Readable, bytesMax: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let bytes = 0
    const settle = (act: () => void) => {
      clearTimeout(timer)
      source.off('data', onData).off('end', onEnd).off('error', onBroken).off('close', onBroken)
      act()
    }
    const fail = (error: AppError) => settle(() => reject(error))
    const onData = (chunk: Buffer) => {
      bytes += chunk.length
      if (bytes > bytesMax) return fail(tooLarge(bytesMax))
      chunks.push(chunk)
    }
    const onEnd = () => settle(() => resolve(Buffer.concat(chunks)))
    const onBroken = () => fail(brokenOff())
    const timer = setTimeout(() => fail(tooSlow()), BODY_MS_MAX)
    if (source.destroyed) return onBroken()
    source.on('data', onData).on('end', onEnd).on('error', onBroken).on('close', onBroken)
  })
}

function tooSlow() {
  return new AppError('invalid_request', `The request body did not arrive within ${BODY_MS_MAX / 1000} seconds`)
}

/** Nobody is left to read it, but it keeps a client's hang-up out of the errors that want a person. */
export function brokenOff(): AppError {
  return new AppError('invalid_request', 'The connection closed before the request body was complete')
}

function tooLarge(bytesMax: number) {
  return new AppError('payload_too_large', `The request body is larger than ${bytesMax} bytes`)
}

function decodeUtf8(bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw new AppError('invalid_request', 'The request body is not valid UTF-8', { cause })
  }
}

const [QUOTE, BACKSLASH, OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = Buffer.from('"\\[]{}')

/** One pass over the bytes, before any parser has built anything; all that matters here is ASCII. */
function refuseDeepJson(bytes: Buffer): void {
  let depth = 0
  let inString = false
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]
    if (inString) {
      if (byte === BACKSLASH) at++
      else if (byte === QUOTE) inString = false
    } else if (byte === QUOTE) inString = true
    else if (byte === OPEN_LIST || byte === OPEN_OBJECT) {
      if (++depth > JSON_DEPTH_MAX) {
        throw new AppError('invalid_request', `The request body is nested deeper than ${JSON_DEPTH_MAX} levels`)
      }
    } else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) depth--
  }
}
