import type { ServerResponse } from 'node:http'
import { encodeChunk, FINAL_CHUNK, formatRetry, unwrapChunk } from './frames.ts'

/**
 * Above this many waiting bytes a stream gets no live events; it catches up from the log when the reader has read.
 * `bytesMax` is at least twice as much.
 */
const SOFT_BYTES = 262_144
/** A reader that has taken nothing of what waits for it for this long is gone, whatever its socket says. */
const STALLED_MS = 30_000
/** The same for the last bytes of a stream that has ended. */
const LINGER_MS = 5_000

/** What every event stream says of itself; nobody on the way may buffer, change or compress it. */
export const STREAM_HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache, no-transform',
  'x-accel-buffering': 'no',
}

/** One open event stream: the bytes and the socket, nothing about conversations. */
export interface Stream {
  /** Number of the last event written; the follower's place in the conversation. */
  position: number
  /** True while events are written as they come; false while the stream reads up from the log. */
  live: boolean
  readonly closed: boolean
  /** Whether so many bytes may join what waits already. A reader that has taken everything is given any number. */
  hasRoom(bytes: number): boolean
  /**
   * Writes a whole chunk. Returns false when the reader is slow: stop, and wait for `drained`. `onTaken` is called when
   * the network has taken it; not at all when the connection breaks before.
   */
  write(chunk: Buffer, onTaken?: () => void): boolean
  /** Resolves when the reader has caught up with what was written, or is gone. */
  drained(): Promise<void>
  /** Ends the stream, after `lastWords` when given. */
  end(lastWords?: string): void
  /** Closes a stream whose reader does not read. Returns true when it did. */
  dropIfStalled(): boolean
}

/**
 * Takes over the response of a request: sends the head of an event stream and from then on writes to the socket itself,
 * since one prepared buffer for all streams costs far less than the response object's own framing. HTTP/1.0, which some
 * proxies speak unless told otherwise, knows no chunks: there the body ends with the connection.
 * `onClose` is called exactly once, however the stream ends; with true when its connection was torn off.
 */
export function openStream(
  outgoing: ServerResponse,
  args: { bytesMax: number; stalledMs?: number | undefined; onClose(isBroken: boolean): void },
): Stream {
  const { bytesMax, stalledMs = STALLED_MS } = args
  const knowsChunks = outgoing.req.httpVersionMinor > 0
  outgoing.writeHead(200, {
    ...STREAM_HEADERS,
    ...(knowsChunks ? { 'transfer-encoding': 'chunked', connection: 'keep-alive' } : { connection: 'close' }),
  })
  outgoing.flushHeaders()
  const socket = outgoing.socket
  let closed = false
  let taken = 0
  let takenAt = performance.now()
  let waiters: (() => void)[] = []

  const send = (chunk: Buffer, onTaken?: () => void) =>
    socket?.write(knowsChunks ? chunk : unwrapChunk(chunk), onTaken && ((error) => error || onTaken()))
  const wake = () => {
    const woken = waiters
    waiters = []
    for (const resolve of woken) resolve()
  }
  const close = (isBroken: boolean) => {
    if (closed) return
    closed = true
    wake()
    args.onClose(isBroken)
  }
  watch(outgoing, { close, wake })

  return {
    position: 0,
    live: false,
    get closed() {
      return closed
    },
    hasRoom(bytes) {
      const waiting = socket?.writableLength ?? 0
      return waiting === 0 || waiting + bytes <= bytesMax
    },
    write(chunk, onTaken) {
      if (closed || !socket) return false
      send(chunk, onTaken)
      return socket.writableLength <= SOFT_BYTES
    },
    drained() {
      if (closed || !socket?.writableNeedDrain) return Promise.resolve()
      return new Promise((resolve) => waiters.push(resolve))
    },
    end(lastWords) {
      if (closed || !socket) return
      if (lastWords) send(encodeChunk(lastWords))
      socket.end(knowsChunks ? FINAL_CHUNK : '')
      socket.setTimeout(Math.min(LINGER_MS, stalledMs), () => socket.destroy())
      close(false)
    },
    dropIfStalled() {
      if (!socket) return false
      const takenNow = socket.bytesWritten - socket.writableLength
      if (socket.writableLength === 0 || takenNow !== taken) {
        taken = takenNow
        takenAt = performance.now()
      }
      if (performance.now() - takenAt < stalledMs) return false
      socket.destroy()
      return true
    },
  }
}

/** The frame that asks a client to come back, at a time of its own so that not all return together. */
export function comeBack(): string {
  return formatRetry(500 + Math.floor(Math.random() * 1_500))
}

function watch(outgoing: ServerResponse, on: { close(isBroken: boolean): void; wake(): void }) {
  const { socket } = outgoing
  if (!socket || socket.destroyed) {
    // Without a socket the request was sent behind one that is not answered yet: an empty stream, and the client returns.
    outgoing.end()
    queueMicrotask(() => on.close(true))
    return
  }
  socket.setNoDelay(true)
  socket.setTimeout(0)
  socket.on('drain', on.wake)
  socket.once('error', () => on.close(true))
  socket.once('close', () => on.close(false))
}
