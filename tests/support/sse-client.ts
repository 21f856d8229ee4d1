import { type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http'
import { StringDecoder } from 'node:string_decoder'
import { type Patience, rejectLate } from './patience.ts'

/** One event as it came. Notices (`connected`, `ping`, `reset`, `closed`) have no id. */
export interface SseEvent {
  id: number | undefined
  name: string
  // biome-ignore lint/suspicious/noExplicitAny: each event has data of its own
  data: any
}

export interface SseOptions extends Patience {
  lastEventId?: number
  headers?: Record<string, string>
  /** Takes exactly so many bytes of the body, then resets the connection. */
  cutAfterBytes?: number
  /** Reads nothing behind the head until `resume`. */
  stalled?: boolean
}

export interface SseClient {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  /** Everything that came, in order. */
  readonly all: SseEvent[]
  /** The numbered ones. */
  readonly events: SseEvent[]
  /** Milliseconds of the last `retry:`. */
  readonly retryMs: number | undefined
  /** Bytes of the body so far. */
  readonly bytes: number
  /** Number of the last event that came whole, as a browser would send it back. */
  readonly lastEventId: number | undefined
  readonly isClosed: boolean
  /** Resolves when the stream is over; rejects when it broke the format. True when the server ended it properly. */
  readonly closed: Promise<boolean>
  /** Resolves with the first event, also of those that came before, that fits. Rejects when the stream is over before. */
  waitFor(fits: (event: SseEvent) => boolean): Promise<SseEvent>
  /** Resolves when the event with this number has come. */
  waitForId(id: number): Promise<SseEvent>
  stall(): void
  resume(): void
  /** Closes the connection in order, as a client does that has what it came for. */
  leave(): void
  /** Ends the connection by RST, as a dying machine or a load balancer does. */
  cut(): void
}

interface Waiter {
  fits(event: SseEvent): boolean
  resolve(event: SseEvent): void
  reject(error: Error): void
}

/** The frames of the contract and nothing else. */
const EVENT = /^(?:id: (?<id>\d+)\n)?event: (?<name>[a-z-]+)\ndata: (?<data>[^\n\r]*)$/
const RETRY = /^retry: (\d+)$/
const NOTICES = new Set(['connected', 'ping', 'reset', 'closed'])

/**
 * Opens an event stream and reads it as strictly as the pickiest of the published clients: any byte outside of the
 * contract is an error. Resolves with the head of the response; other statuses than 200 are for the caller to look at.
 */
export function connectSse(url: string, options: SseOptions = {}): Promise<SseClient> {
  const headers = {
    accept: 'text/event-stream',
    ...(options.lastEventId === undefined ? {} : { 'last-event-id': String(options.lastEventId) }),
    ...options.headers,
  }
  return new Promise((resolve, reject) => {
    const sent = request(url, { headers, agent: false })
    // Behind the head a stream may be silent for as long as it likes.
    const hasHead = rejectLate(sent, reject, { what: `the head of ${url}`, ...options })
    sent.on('response', (res) => {
      hasHead()
      resolve(readStream(res, options))
    })
    sent.on('error', reject)
    sent.end()
  })
}

/** Follows a stream to its end however often it breaks: comes back with `Last-Event-ID`. Resolves with all that came. */
export async function followSse(
  url: string,
  options: { until(event: SseEvent): boolean; cutAfterBytes?(connection: number): number | undefined },
): Promise<{ events: SseEvent[]; connections: SseClient[] }> {
  const connections: SseClient[] = []
  for (;;) {
    const before = connections.findLast((client) => client.lastEventId !== undefined)
    const cutAfterBytes = options.cutAfterBytes?.(connections.length)
    const client = await connectSse(url, {
      ...(before === undefined ? {} : { lastEventId: before.lastEventId! }),
      ...(cutAfterBytes === undefined ? {} : { cutAfterBytes }),
    })
    connections.push(client)
    const done = await client.waitFor(options.until).then(
      () => true,
      () => client.closed.then(() => false),
    )
    if (!done) continue
    client.cut()
    return { events: connections.flatMap((connection) => connection.events), connections }
  }
}

function readStream(res: IncomingMessage, options: SseOptions): SseClient {
  const all: SseEvent[] = []
  const events: SseEvent[] = []
  const waiters = new Set<Waiter>()
  const decoder = new StringDecoder('utf8')
  /** Pieces of the frame that is not whole yet; joined only when its end comes, since it may have megabytes. */
  let held: string[] = []
  let bytes = 0
  let left = options.cutAfterBytes ?? Number.POSITIVE_INFINITY
  let retryMs: number | undefined
  let isClosed = false
  let fault: Error | undefined

  function take(chunk: Buffer) {
    if (fault || left <= 0) return
    const taken = chunk.length <= left ? chunk : chunk.subarray(0, left)
    const piece = decoder.write(taken)
    const mayEnd = `${held.at(-1)?.at(-1) ?? ''}${piece}`.includes('\n\n')
    held.push(piece)
    bytes += taken.length
    left -= taken.length
    try {
      if (mayEnd) takeFrames(held.join(''))
    } catch (error) {
      fault = error as Error
      res.destroy()
    }
    if (left <= 0) res.socket.resetAndDestroy()
  }

  function takeFrames(text: string) {
    let from = 0
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n', from)) {
      takeFrame(text.slice(from, end))
      from = end + 2
    }
    held = from < text.length ? [text.slice(from)] : []
  }

  function takeFrame(frame: string) {
    const retry = RETRY.exec(frame)
    if (retry) {
      retryMs = Number(retry[1])
      return
    }
    const groups = EVENT.exec(frame)?.groups
    if (!groups) throw new Error(`not a frame of the contract: ${JSON.stringify(frame.slice(0, 200))}`)
    const { id, name, data } = groups as { id?: string; name: string; data: string }
    if ((id === undefined) !== NOTICES.has(name)) throw new Error(`an id where there is none, or none: ${frame}`)
    const event = { id: id === undefined ? undefined : Number(id), name, data: JSON.parse(data) }
    all.push(event)
    if (event.id !== undefined) events.push(event)
    for (const waiter of waiters) {
      if (!waiter.fits(event)) continue
      waiters.delete(waiter)
      waiter.resolve(event)
    }
  }

  const closed = new Promise<boolean>((resolve, reject) => {
    res.once('close', () => {
      isClosed = true
      for (const waiter of waiters) waiter.reject(fault ?? new Error('the stream is over'))
      waiters.clear()
      if (fault) reject(fault)
      else resolve(res.complete)
    })
  })
  closed.catch(() => {})
  res.on('error', () => {})
  res.on('data', take)
  if (options.stalled) res.pause()

  return {
    status: res.statusCode!,
    headers: res.headers,
    all,
    events,
    get retryMs() {
      return retryMs
    },
    get bytes() {
      return bytes
    },
    get lastEventId() {
      return events.at(-1)?.id
    },
    get isClosed() {
      return isClosed
    },
    closed,
    waitFor(fits) {
      const known = all.find(fits)
      if (known) return Promise.resolve(known)
      if (isClosed) return Promise.reject(fault ?? new Error('the stream is over'))
      return new Promise((resolve, reject) => waiters.add({ fits, resolve, reject }))
    },
    waitForId(id) {
      return this.waitFor((event) => event.id === id)
    },
    stall: () => void res.pause(),
    resume: () => void res.resume(),
    leave: () => void res.socket.destroy(),
    cut: () => void res.socket.resetAndDestroy(),
  }
}
