import type { IncomingMessage, ServerResponse } from 'node:http'

/** The longest that a refused body is read and thrown away. Long enough for a slow client to notice the answer. */
const DISCARD_MS_MAX = 10_000
/** A client that was not told to go on sends nothing; it only needs the time to read the answer. */
const UNSENT_MS_MAX = 1_000
const DISCARD_BYTES_MAX = 268_435_456

/**
 * Lets a response that ends before its request's body reach the client.
 *
 * Left alone, Node closes the socket of such a response (or reads on for ever), and the bytes still under way make the
 * kernel send a reset, which many clients report in place of the answer. Here the answer is written in full, then the
 * rest of the body is read and thrown away within bounds, and only then the response ends. A body that is still coming
 * at the bound costs the client its connection. https://www.rfc-editor.org/rfc/rfc9112#section-9.6
 */
export function answerBeforeBody(
  { incoming, outgoing }: { incoming: IncomingMessage; outgoing: ServerResponse },
  isBodyWanted: () => boolean,
): void {
  const end = outgoing.end.bind(outgoing)
  outgoing.end = ((chunk?: unknown) => {
    outgoing.end = end
    if (incoming.complete || incoming.destroyed) return end(chunk)
    if (typeof chunk === 'string' || chunk instanceof Uint8Array) outgoing.write(chunk)
    else outgoing.flushHeaders()
    discard(incoming, isBodyWanted() ? DISCARD_MS_MAX : UNSENT_MS_MAX, (isWhole) => {
      if (!isWhole) outgoing.once('finish', () => incoming.socket.destroy())
      end()
    })
    return outgoing
  }) as typeof outgoing.end
}

function discard(incoming: IncomingMessage, msMax: number, done: (isWhole: boolean) => void): void {
  let bytes = 0
  const settle = (isWhole: boolean) => {
    clearTimeout(timer)
    incoming.off('data', onData).off('end', onEnd).off('close', onBroken)
    done(isWhole)
  }
  const onData = (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes > DISCARD_BYTES_MAX) settle(false)
  }
  const onEnd = () => settle(true)
  const onBroken = () => settle(false)
  const timer = setTimeout(onBroken, msMax)
  incoming
    .on('data', onData)
    .on('end', onEnd)
    .on('close', onBroken)
    .on('error', () => {})
  incoming.resume()
}

/**
 * Answers `Expect: 100-continue` when the body is read for the first time, and not at all when nobody reads it: a client
 * that asks before it sends 100 MB is then refused before it has sent them.
 *
 * @returns whether the client has been told to send.
 */
export function continueOnFirstRead(incoming: IncomingMessage, outgoing: ServerResponse): () => boolean {
  let told = false
  const read = incoming._read.bind(incoming)
  // A client that was never told to send leaves its connection in doubt, so that one is closed.
  const { shouldKeepAlive } = outgoing
  outgoing.shouldKeepAlive = false
  incoming._read = (size) => {
    incoming._read = read
    if (!outgoing.headersSent) {
      told = true
      outgoing.shouldKeepAlive = shouldKeepAlive
      outgoing.writeContinue()
    }
    read(size)
  }
  return () => told
}
