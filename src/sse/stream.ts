import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
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
export function openStream(outgoing: ServerResponse, args: StreamArgs): Stream {
  const incoming = outgoing.req
  const knowsChunks = incoming.httpVersionMinor > 0
  outgoing.writeHead(200, {
    ...args.headers,
    ...STREAM_HEADERS,
    ...(knowsChunks ? { 'transfer-encoding': 'chunked', connection: 'keep-alive' } : { connection: 'close' }),
  })
  outgoing.flushHeaders()
  // Node keeps the request for as long as the response, which is for hours; of its headers nobody wants anything any more.
  incoming.headers = {}
  incoming.rawHeaders = []
  const { socket } = outgoing
  const stream = new SocketStream(socket, { ...args, knowsChunks })
  if (socket && !socket.destroyed) {
    socket.setNoDelay(true)
    socket.setTimeout(0)
    // Comes behind an error as well, and says so.
    socket.on('close', (isBroken) => stream.close(isBroken))
  } else {
    // Without a socket the request was sent behind one that is not answered yet: an empty stream, and the client returns.
    outgoing.end()
    queueMicrotask(() => stream.close(true))
  }
  return stream
}

interface StreamArgs {
  /** Sent in the head, with those of every stream. */
  headers?: Record<string, string> | undefined
  bytesMax: number
  stalledMs?: number | undefined
  onClose(isBroken: boolean): void
}

/** A class, so that a replica with ten thousand streams has each function once and not ten thousand times. */
class SocketStream implements Stream {
  position = 0
  live = false
  closed = false
  readonly #socket: Socket | null
  readonly #knowsChunks: boolean
  readonly #bytesMax: number
  readonly #stalledMs: number
  readonly #onClose: (isBroken: boolean) => void
  #taken = 0
  #takenAt = performance.now()
  #waiters: (() => void)[] | undefined

  constructor(socket: Socket | null, args: StreamArgs & { knowsChunks: boolean }) {
    this.#socket = socket
    this.#knowsChunks = args.knowsChunks
    this.#bytesMax = args.bytesMax
    this.#stalledMs = args.stalledMs ?? STALLED_MS
    this.#onClose = args.onClose
  }

  hasRoom(bytes: number): boolean {
    const waiting = this.#socket?.writableLength ?? 0
    return waiting === 0 || waiting + bytes <= this.#bytesMax
  }

  write(chunk: Buffer, onTaken?: () => void): boolean {
    if (this.closed || !this.#socket) return false
    this.#send(this.#socket, chunk, onTaken)
    return this.#socket.writableLength <= SOFT_BYTES
  }

  drained(): Promise<void> {
    if (this.closed || !this.#socket?.writableNeedDrain) return Promise.resolve()
    if (!this.#waiters) {
      this.#waiters = []
      this.#socket.once('drain', () => this.#wake())
    }
    const waiters = this.#waiters
    return new Promise((resolve) => waiters.push(resolve))
  }

  end(lastWords?: string): void {
    const socket = this.#socket
    if (this.closed || !socket) return
    if (lastWords) this.#send(socket, encodeChunk(lastWords))
    socket.end(this.#knowsChunks ? FINAL_CHUNK : '')
    socket.setTimeout(Math.min(LINGER_MS, this.#stalledMs), () => socket.destroy())
    this.close(false)
  }

  dropIfStalled(): boolean {
    const socket = this.#socket
    if (!socket) return false
    const takenNow = socket.bytesWritten - socket.writableLength
    if (socket.writableLength === 0 || takenNow !== this.#taken) {
      this.#taken = takenNow
      this.#takenAt = performance.now()
    }
    if (performance.now() - this.#takenAt < this.#stalledMs) return false
    socket.destroy()
    return true
  }

  /** The connection is over, or has been given its last words. */
  close(isBroken: boolean): void {
    if (this.closed) return
    this.closed = true
    this.#wake()
    this.#onClose(isBroken)
  }

  #send(socket: Socket, chunk: Buffer, onTaken?: () => void): void {
    socket.write(this.#knowsChunks ? chunk : unwrapChunk(chunk), onTaken && ((error) => error || onTaken()))
  }

  #wake(): void {
    const woken = this.#waiters ?? []
    this.#waiters = undefined
    for (const resolve of woken) resolve()
  }
}

/** The frame that asks a client to come back, at a time of its own so that not all return together. */
export function comeBack(): string {
  return formatRetry(500 + Math.floor(Math.random() * 1_500))
}
