import type { Sql } from '../db/client.ts'
import { backoffMs } from '../lib/backoff.ts'
import { errorLine } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import type { Service } from '../lib/service.ts'
import { sleep } from '../lib/sleep.ts'
import { cutText } from '../lib/text.ts'
import type { ClaimedRun } from '../queue/runs.ts'
import { insertReplies, type ReplyBatch } from '../queue/thread-response.ts'
import { encodeEventLine } from '../sse/frames.ts'

/** Batches of one statement; the rest waits for the next. */
const BATCHES_MAX = 500
/** Characters of one event line group; more goes with the next batch, so that no statement grows without bound. */
const BATCH_CHARS_MAX = 1024 * 1024
/** Characters of one `output` event: clients get a frame of bounded size however fast a model writes. */
const OUTPUT_CHARS_MAX = 65_536
/** Characters of output that one run may have waiting before its worker is held back. */
const WAITING_CHARS_MAX = 4 * 1024 * 1024

/** The replies of one run, in order. */
export interface RunReplies {
  /** Streams text; what is not sent yet is joined into one event. */
  delta(text: string): void
  /** Streams any other event. */
  event(name: string, data: Record<string, unknown>): void
  /** False while more waits than may. */
  hasRoom(): boolean
  /** Number of the last batch that was sent; 0 before the first. */
  batch(): number
  /**
   * Takes no more, waits for the batch in flight, and returns what was never sent: the transaction that ends the run
   * writes it. Aborting `signal` gives up waiting for a database that does not come back; then the answer is null, and
   * nobody may say how the run ended, since nobody knows what of it is stored.
   */
  close(signal: AbortSignal): Promise<string[] | null>
}

export interface ReplyWriter extends Service {
  /** @param onStale called once when the queue refused this claim of the run: somebody else holds it, or it has ended. */
  open(run: ClaimedRun, onStale: () => void, traceparent?: string | null): RunReplies
}

interface ReplyEvent {
  name: string
  data: Record<string, unknown>
}

interface Entry {
  readonly run: ClaimedRun
  readonly traceparent: string | null
  /** Not sent yet. */
  waiting: ReplyEvent[]
  /** Sent, and not known to be stored: sent again unchanged until it is. */
  sent: ReplyBatch | null
  batches: number
  chars: number
  open: boolean
  onStale(): void
  /** Wakes who waits for `sent` to be stored. */
  onSettled?: () => void
}

/**
 * Carries the replies of this replica's workers to `thread_response`. One statement is in flight at a time; what is
 * produced meanwhile collects and goes with the next, so the load decides the size of batches. While the database is
 * away everything waits here, within bounds, until the runs' leases are lost.
 */
export function createReplyWriter({
  sql,
  log,
  onInserted,
}: {
  sql: Sql
  log: Logger
  onInserted(): void
}): ReplyWriter {
  const entries = new Set<Entry>()
  let flight: Promise<void> | undefined
  let failures = 0

  function schedule() {
    flight ??= run().finally(() => {
      flight = undefined
    })
  }

  /** Flushes until nothing waits. Starts in a later microtask, so that what is produced in one tick goes together. */
  async function run() {
    await Promise.resolve()
    for (;;) {
      const due = [...entries].filter((entry) => entry.sent || (entry.open && entry.waiting.length > 0))
      if (due.length === 0) return
      await flush(due.slice(0, BATCHES_MAX))
    }
  }

  async function flush(due: Entry[]) {
    for (const entry of due) entry.sent ??= nextBatch(entry)
    try {
      const stored = await insertReplies(
        sql,
        due.map((entry) => entry.sent!),
      )
      failures = 0
      for (const entry of due) settle(entry, stored.has(entry.run.id))
      onInserted()
    } catch (error) {
      failures++
      log.warn({ failures, err: errorLine(error) }, 'replies wait for the database')
      await sleep(backoffMs(failures, { baseMs: 50, maxMs: 1_000 }))
    }
  }

  function settle(entry: Entry, stored: boolean) {
    entry.sent = null
    entry.onSettled?.()
    if (!entry.open) entries.delete(entry)
    if (stored) return
    const wasOpen = entry.open
    entry.open = false
    entry.waiting = []
    entries.delete(entry)
    if (wasOpen) entry.onStale()
  }

  function push(entry: Entry, event: ReplyEvent) {
    if (!entry.open) return
    entry.waiting.push(event)
    entry.chars += size(event)
    schedule()
  }

  return {
    name: 'replies',
    async start() {},
    async stop() {
      for (const entry of entries) entry.open = false
      await flight
    },
    open(run, onStale, traceparent = null) {
      const entry: Entry = { run, traceparent, waiting: [], sent: null, batches: 0, chars: 0, open: true, onStale }
      entries.add(entry)
      return {
        delta(text) {
          for (const piece of cutText(text, OUTPUT_CHARS_MAX)) {
            const last = entry.waiting.at(-1)
            if (last?.name === 'output' && size(last) + piece.length <= OUTPUT_CHARS_MAX) {
              last.data.content += piece
              entry.chars += piece.length
            } else {
              const data = { type: 'delta', content: piece, timestamp: Date.now(), messageId: run.messageId }
              push(entry, { name: 'output', data })
            }
          }
        },
        event: (name, data) => push(entry, { name, data }),
        hasRoom: () => entry.chars < WAITING_CHARS_MAX,
        batch: () => entry.batches,
        async close(signal) {
          entry.open = false
          if (!entry.sent) entries.delete(entry)
          // Not for the whole flight: while other runs speak it does not end, nor while the database is away.
          else await settled(entry, signal)
          if (entry.sent) {
            // Given up: nobody may send it any more, or stopping would wait for it for ever.
            entries.delete(entry)
            return null
          }
          return entry.waiting.map((event) => encodeEventLine(event.name, event.data))
        },
      }
    },
  }
}

/** Resolves when the batch in flight is stored or refused, or when `signal` aborts. */
function settled(entry: Entry, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve()
    const done = () => {
      signal.removeEventListener('abort', done)
      resolve()
    }
    entry.onSettled = done
    signal.addEventListener('abort', done, { once: true })
  })
}

function nextBatch(entry: Entry): ReplyBatch {
  let chars = 0
  let count = 0
  for (const event of entry.waiting) {
    chars += size(event)
    if (count > 0 && chars > BATCH_CHARS_MAX) break
    count++
  }
  const events = entry.waiting.splice(0, count)
  entry.chars -= events.reduce((sum, event) => sum + size(event), 0)
  const batch = ++entry.batches
  return {
    organizationId: entry.run.organizationId,
    id: entry.run.id,
    fence: entry.run.fence,
    conversationId: entry.run.conversationId,
    batch,
    eventCount: events.length,
    events: events.map((event) => encodeEventLine(event.name, event.data)).join('\n'),
    traceparent: batch === 1 ? entry.traceparent : null,
  }
}

function size(event: ReplyEvent): number {
  return typeof event.data.content === 'string' ? event.data.content.length : 200
}
