import { constants, type Http2ServerRequest } from 'node:http2'
import { Refusal } from './refusal.ts'

/** A prompt with files in it; vendors take 20–32 MB at most. */
export const BODY_BYTES_MAX = 32 * 1024 * 1024
/** What a sender may still send when its request has been answered. */
const REST_BYTES_MAX = 2 * BODY_BYTES_MAX

/** Throws Refusal 413 for a body whose sender announced that it will be too large. */
export function checkAnnouncedLength(req: Http2ServerRequest): void {
  if (Number(req.headers['content-length'] ?? 0) > BODY_BYTES_MAX) throw tooLarge()
}

/** The request's body, read only as fast as it is asked for. Throws Refusal 413 at the byte too many. */
export async function* boundedBody(req: Http2ServerRequest): AsyncGenerator<Buffer> {
  let bytes = 0
  for await (const chunk of req.iterator({ destroyOnReturn: false })) {
    bytes += chunk.length
    if (bytes > BODY_BYTES_MAX) throw tooLarge()
    yield chunk
  }
}

/** The whole body in one piece, within the same bound. */
export async function readBody(req: Http2ServerRequest): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of boundedBody(req)) chunks.push(chunk)
  return Buffer.concat(chunks)
}

/**
 * Lets the rest of a request that is already answered run into the sand, so that its stream can end. A reset in the
 * middle of an upload would be shorter, but Node's client then loses the answer or never closes the stream.
 */
export function discardRest(req: Http2ServerRequest): void {
  let bytes = 0
  req.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes > REST_BYTES_MAX) req.stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM)
  })
  req.resume()
}

function tooLarge(): Refusal {
  return new Refusal(413, 'payload_too_large', `A model request may have ${BODY_BYTES_MAX / 1024 / 1024} MiB at most.`)
}
