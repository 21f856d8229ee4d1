import type { ServerResponse } from 'node:http'
import type { Sql } from '../db/client.ts'
import { AppError, errorLine } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import type { Service } from '../lib/service.ts'
import { type Metrics, NO_METRICS } from '../telemetry/metrics.ts'
import { type LogRow, readLogs } from './event-log.ts'
import { createFanOut, type FanOut, SLICE } from './fan-out.ts'
import { encodeChunk, formatEvent, formatNotice, type LoggedEvent, parseEventLines } from './frames.ts'
import { createReceipts } from './receipts.ts'
import { comeBack, openStream, type Stream } from './stream.ts'
import { type Channel, channelKey, type Tail } from './tail.ts'

export interface SseManager extends Service {
  /** @throws AppError 'draining' or 'too_many_streams' when this replica takes no more; asked before any byte is sent. */
  admit(): void
  /**
   * Makes the response an event stream of a conversation: first `preamble`, then every event after `after`, each once
   * and in order, until the client goes or the conversation ends. Throws like `admit`, while an answer is still possible:
   * others may have been attached since the caller asked.
   *
   * @param head the conversation's last event number, as the caller has just read it.
   * @param onClose called once when the stream is over, whoever ended it.
   */
  attach(
    outgoing: ServerResponse,
    args: {
      organizationId: string
      conversationId: string
      after: number
      head: number
      preamble: string
      /** Sent in the head of the response, beside those of every event stream. */
      headers?: Record<string, string> | undefined
      onClose?: (() => void) | undefined
      /** Called with the number of an end of a turn that has reached the client, as far as can be known. */
      onEndSeen?: ((seq: number) => void) | undefined
      /** Whether the client may still read; never rejects. Asked while the stream is open, see `recheck`. */
      mayStay?: (() => Promise<boolean>) | undefined
    },
  ): void
  /** Somebody may have lost access: every stream asks `mayStay` at its next ping, and ends when it may not. */
  recheck(): void
  /** Open streams of this replica. */
  count(): number
}

export interface SseManagerOptions {
  streamsMax: number
  streamsPerConversationMax: number
  pingMs: number
  bufferBytesMax: number
  /** How long a reader may leave everything that waits for it; 30 s unless given. */
  stalledMs?: number
  /** Streams of a conversation that are written to before others have a turn; 500 unless given. */
  slice?: number
}

export interface SseManagerDeps {
  sql: Sql
  tail: Tail
  log: Logger
  metrics?: Metrics
}

interface Followed extends Channel {
  streams: Set<Stream>
  /** While events are on their way. */
  fanOut: FanOut | undefined
  /** The conversation is over, and so is each stream that has had its last event. */
  ended: boolean
}

/** Events on their way to many streams, encoded once. */
interface Shared {
  events: LoggedEvent[]
  chunk: Buffer
  /** Number of the last end among them. */
  endSeq: number | undefined
}

/** A stream that catches up is written to in pieces of about this many characters, so that a slow reader is noticed. */
const PIECE_CHARS = 65_536
/** Last words of every stream of a conversation that is over. */
const ENDED = formatNotice('closed', { reason: 'ended' })
const REFUSED = formatNotice('closed', { reason: 'unauthorized' })
/** So often a stream asks whether it may stay although nobody said that something has changed: credentials expire too. */
const ASK_AGAIN_MS = 300_000
/** Streams are pinged in this many groups, so that not all are written to in one tick. */
const PING_GROUPS = 16

/**
 * This replica's streams. What they show comes from the log alone, so any replica can serve any conversation (I3).
 * A stream first reads up from its own position, then joins the live ones; a slow reader falls back to reading up.
 */
export function createSseManager(deps: SseManagerDeps, options: SseManagerOptions): SseManager {
  const { metrics = NO_METRICS } = deps
  const followed = new Map<string, Followed>()
  const groups = Array.from({ length: PING_GROUPS }, () => new Set<Stream>())
  /** Of streams that must ask, and when they last did. The first time is soon: much may change before a stream is open. */
  const guards = new WeakMap<Stream, { mayStay(): Promise<boolean>; askedAt: number }>()
  const receipts = createReceipts()
  const seenBy = new WeakMap<Stream, (seq: number) => void>()
  let changedAt = Number.NEGATIVE_INFINITY
  let opened = 0
  let count = 0
  let draining = false
  let wheel: NodeJS.Timeout | undefined

  function admit() {
    if (draining) throw new AppError('draining', 'This replica is shutting down', { retryAfterSeconds: 1 })
    if (count >= options.streamsMax) {
      metrics.count('lobu_streams_ended_total', { reason: 'refused' })
      throw new AppError('too_many_streams', 'This replica holds as many streams as it may', { retryAfterSeconds: 5 })
    }
  }

  function follow(organizationId: string, conversationId: string, head: number): Followed {
    const key = channelKey(organizationId, conversationId)
    const known = followed.get(key)
    if (known) return known
    const channel: Followed = {
      organizationId,
      conversationId,
      head,
      streams: new Set(),
      fanOut: undefined,
      ended: false,
      onEvents(events) {
        channel.fanOut ??= createBroadcast(channel)
        channel.fanOut.push(events)
      },
      onGap: () => endAll(channel, comeBack),
      onEnded: () => {
        channel.ended = true
        if (!channel.fanOut) endLive(channel)
      },
    }
    followed.set(key, channel)
    deps.tail.follow(channel)
    return channel
  }

  /** Made when there is something to say and gone when it is said: most conversations are silent most of the time. */
  function createBroadcast(channel: Followed): FanOut {
    let encoded: Shared | undefined
    return createFanOut(
      {
        streams: channel.streams,
        write(stream, events) {
          if (encoded?.events !== events) encoded = { events, chunk: encodeEvents(events), endSeq: lastEnd(events) }
          give(channel, stream, encoded)
        },
        fallBehind: (stream) => turnToLog(channel, stream),
        onIdle() {
          channel.fanOut = undefined
          if (encoded && metrics.enabled) measureDelivery(metrics, encoded.events.at(-1)!)
          if (channel.ended) endLive(channel)
        },
      },
      { slice: options.slice ?? SLICE },
    )
  }

  function leave(channel: Followed, stream: Stream) {
    if (!channel.streams.delete(stream)) return
    count--
    for (const group of groups) group.delete(stream)
    if (channel.streams.size > 0) return
    followed.delete(channelKey(channel.organizationId, channel.conversationId))
    deps.tail.unfollow(channel)
  }

  /** Gives a stream those of the events that it does not have yet. */
  function give(channel: Followed, stream: Stream, shared: Shared) {
    if (stream.position === shared.events[0]!.seq - 1) return deliver(channel, stream, shared)
    // A stream that read up past the channel's head has the first of these events already.
    const events = shared.events.filter((event) => event.seq > stream.position)
    if (events.length > 0) deliver(channel, stream, { ...shared, events, chunk: encodeEvents(events) })
  }

  /** Called when the network has taken an end; undefined where there is none, which costs nothing. */
  function onTaken(stream: Stream, endSeq: number | undefined) {
    const confirm = endSeq === undefined ? undefined : seenBy.get(stream)
    return confirm && (() => receipts.taken(stream, endSeq!, confirm))
  }

  function deliver(channel: Followed, stream: Stream, { events, chunk, endSeq }: Shared) {
    if (stream.hasRoom(chunk.length)) {
      const keepsUp = stream.write(chunk, onTaken(stream, endSeq))
      stream.position = events.at(-1)!.seq
      if (keepsUp || stream.closed) return
    }
    turnToLog(channel, stream)
  }

  function turnToLog(channel: Followed, stream: Stream) {
    stream.live = false
    void catchUp(channel, stream)
  }

  function endLive(channel: Followed) {
    for (const stream of [...channel.streams]) if (stream.live) stream.end(ENDED)
  }

  /** Reads the log from the stream's position until it stands where the channel stands, then makes it live. */
  async function catchUp(channel: Followed, stream: Stream) {
    try {
      await stream.drained()
      while (!stream.closed && stream.position < channel.head) {
        const rows = await readLogs(deps.sql, [{ ...channel, after: stream.position }])
        // The rest was removed meanwhile: the client comes back and is told so by `reset`.
        if (rows.length === 0) return stream.end(comeBack())
        for (const row of rows) await replay(stream, row)
        await stream.drained()
      }
      if (channel.ended) stream.end(ENDED)
      else stream.live = true
    } catch (error) {
      const { organizationId, conversationId } = channel
      deps.log.warn({ err: errorLine(error), organizationId, conversationId }, 'stream could not catch up')
      stream.end(comeBack())
    }
  }

  /** Writes what of a row the stream does not have yet, in pieces, as fast as the reader reads. */
  async function replay(stream: Stream, row: LogRow) {
    if (row.firstSeq > stream.position + 1) return stream.end(comeBack())
    const events = parseEventLines(row.events, row.firstSeq).filter((event) => event.seq > stream.position)
    for (const piece of pieces(events)) {
      if (stream.closed) return
      const keepsUp = stream.write(encodeEvents(piece), onTaken(stream, lastEnd(piece)))
      stream.position = piece.at(-1)!.seq
      if (!keepsUp) await stream.drained()
    }
  }

  function endAll(channel: Followed, lastWords: () => string) {
    for (const stream of [...channel.streams]) stream.end(lastWords())
  }

  function ping(group: Set<Stream>) {
    if (group.size === 0) return
    const chunk = encodeChunk(formatNotice('ping', { timestamp: Date.now() }))
    for (const stream of group) {
      if (stream.dropIfStalled()) metrics.count('lobu_streams_ended_total', { reason: 'stalled' })
      else if (stream.live) stream.write(chunk)
    }
  }

  /** One after the other, so that what is known of a credential answers for all streams that have it. */
  async function askWhoMayStay(group: Set<Stream>) {
    const now = performance.now()
    const due = [...group].flatMap((stream) => {
      const guard = guards.get(stream)
      if (!guard || (guard.askedAt >= changedAt && now - guard.askedAt < ASK_AGAIN_MS)) return []
      guard.askedAt = now
      return [{ stream, guard }]
    })
    for (const { stream, guard } of due) {
      if (stream.closed || (await guard.mayStay())) continue
      metrics.count('lobu_streams_ended_total', { reason: 'unauthorized' })
      stream.end(REFUSED)
    }
  }

  function tick(group: Set<Stream>) {
    ping(group)
    void askWhoMayStay(group)
  }

  return {
    name: 'sse',
    count: () => count,
    admit,
    attach(outgoing, { organizationId, conversationId, after, head, preamble, headers, onClose, onEndSeen, mayStay }) {
      admit()
      const channel = follow(organizationId, conversationId, head)
      const { bufferBytesMax: bytesMax, stalledMs } = options
      const close = (isBroken: boolean) => {
        leave(channel, stream)
        receipts.closed(stream, isBroken)
        onClose?.()
      }
      const stream = openStream(outgoing, { headers, bytesMax, stalledMs, onClose: close })
      stream.position = after
      if (onEndSeen) seenBy.set(stream, onEndSeen)
      if (mayStay) guards.set(stream, { mayStay, askedAt: Number.NEGATIVE_INFINITY })
      channel.streams.add(stream)
      groups[opened++ % PING_GROUPS]!.add(stream)
      count++
      if (channel.streams.size > options.streamsPerConversationMax) {
        const [oldest] = channel.streams
        metrics.count('lobu_streams_ended_total', { reason: 'replaced' })
        oldest!.end(formatNotice('closed', { reason: 'replaced' }))
      }
      stream.write(encodeChunk(preamble))
      void catchUp(channel, stream)
    },
    recheck() {
      changedAt = performance.now()
    },
    async start() {
      let turn = 0
      wheel ??= setInterval(() => tick(groups[turn++ % PING_GROUPS]!), options.pingMs / PING_GROUPS)
    },
    async stop() {
      draining = true
      clearInterval(wheel)
      for (const channel of [...followed.values()]) endAll(channel, comeBack)
    },
  }
}

const STAMP = '"timestamp":'

/**
 * How long ago the event was said, by the clocks of two replicas at most. The time is read out of the JSON, which is not
 * parsed: quotes within its texts are escaped, so nothing that a model says reads like the name of the field.
 */
function measureDelivery(metrics: Metrics, { data }: LoggedEvent) {
  const at = data.lastIndexOf(STAMP)
  const saidAt = at < 0 ? Number.NaN : Number.parseInt(data.slice(at + STAMP.length, at + STAMP.length + 16), 10)
  if (saidAt > 0) metrics.observe('lobu_delivery_latency_seconds', {}, (Date.now() - saidAt) / 1000)
}

/** Cuts events into groups of about `PIECE_CHARS`, each of one event at least. */
function* pieces(events: LoggedEvent[]): Generator<LoggedEvent[]> {
  let piece: LoggedEvent[] = []
  let chars = 0
  for (const event of events) {
    piece.push(event)
    chars += event.data.length
    if (chars < PIECE_CHARS) continue
    yield piece
    piece = []
    chars = 0
  }
  if (piece.length > 0) yield piece
}

/** Number of the last end of a turn among these events. */
function lastEnd(events: LoggedEvent[]): number | undefined {
  return events.findLast((event) => event.name === 'complete')?.seq
}

function encodeEvents(events: LoggedEvent[]): Buffer {
  return encodeChunk(events.map(formatEvent).join(''))
}
