import { errorLine } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import type { Service } from '../lib/service.ts'
import { settlesWithin } from '../lib/settles-within.ts'
import { sleep } from '../lib/sleep.ts'
import type { Sql } from './client.ts'

/** Postgres refuses 8,000 bytes; a little is left for what a later server may count differently. */
export const PAYLOAD_BYTES_MAX = 7_900
/** Postgres refuses a longer channel. */
const CHANNEL_BYTES_MAX = 63
/**
 * Rings that may wait for the statement before them, in each lane. Past it they are dropped: a ring is a hint, the table is
 * the truth.
 */
const WAITING_MAX = 1_000
/** How long `stop` waits for what was rung before. */
const STOP_FLUSH_MS = 1_000

export interface Notifier extends Service {
  /**
   * Tells whoever listens on the channel, in every process, soon. Never throws for the database's sake.
   * @throws Error when the payload has over 7,900 bytes or the channel over 63: a mistake of the caller.
   */
  ring(channel: string, payload: string): void
  /** Rings dropped since the start, because too many waited or the statement failed. */
  dropped(): number
}

/** Rings on their way out. */
interface Batch {
  channels: string[]
  payloads: string[]
}

/** Collects rings, equal ones once, in order of arrival. */
function createCollector() {
  let groups = new Map<string, Set<string>>()
  let count = 0
  return {
    /** False when it is full. */
    add(channel: string, payload: string): boolean {
      const group = groups.get(channel) ?? new Set()
      if (group.has(payload)) return true
      if (count >= WAITING_MAX) return false
      groups.set(channel, group.add(payload))
      count += 1
      return true
    },
    isEmpty: () => count === 0,
    take(): Batch {
      const pairs = [...groups].flatMap(([channel, group]) => [...group].map((payload) => ({ channel, payload })))
      groups = new Map()
      count = 0
      return { channels: pairs.map(({ channel }) => channel), payloads: pairs.map(({ payload }) => payload) }
    },
  }
}

/**
 * One batch in flight at a time. What is rung meanwhile joins the next, which leaves `gapMs` after the one before at the
 * earliest.
 */
function createLane({ send }: { send(batch: Batch): Promise<void> }, { gapMs }: { gapMs: number }) {
  const collector = createCollector()
  let flight: Promise<void> | undefined
  let leftAt = Number.NEGATIVE_INFINITY

  async function fly() {
    // One turn later, so that what is rung together leaves together.
    await Promise.resolve()
    while (!collector.isEmpty()) {
      const early = leftAt + gapMs - performance.now()
      if (early > 0) await sleep(early)
      leftAt = performance.now()
      await send(collector.take())
    }
    flight = undefined
  }

  return {
    /** False when it is full. */
    ring(channel: string, payload: string): boolean {
      const isTaken = collector.add(channel, payload)
      flight ??= fly()
      return isTaken
    },
    landed: () => flight,
  }
}

/**
 * The one place that says NOTIFY, because each takes a lock over the whole database at its commit.
 *
 * The first ring goes out at once. What rings while a statement is in flight collects, equal rings merged, and goes out
 * with the next one: the busier, the bigger the batches. The channels of `gapsMs` are left alone for so many milliseconds
 * between two statements, for rings that say the same all the time: there the lock costs writers more than they gain.
 */
export function createNotifier(
  { sql, log }: { sql: Sql; log: Logger },
  { gapsMs = {} }: { gapsMs?: Record<string, number> } = {},
): Notifier {
  const shared = createLane({ send }, { gapMs: 0 })
  const lanes = new Map(Object.entries(gapsMs).map(([channel, gapMs]) => [channel, createLane({ send }, { gapMs })]))
  let droppedCount = 0
  let stopped = false

  async function send({ channels, payloads }: Batch) {
    try {
      await sql`select pg_notify(c, p) from unnest(${channels}::text[], ${payloads}::text[]) as x (c, p)`
    } catch (error) {
      droppedCount += payloads.length
      log.warn({ error: errorLine(error), dropped: payloads.length }, 'doorbell failed; listeners find out by polling')
    }
  }

  return {
    name: 'notifier',

    ring(channel, payload) {
      if (Buffer.byteLength(payload) > PAYLOAD_BYTES_MAX) throw new Error(`payload for ${channel} is over 7,900 bytes`)
      if (Buffer.byteLength(channel) > CHANNEL_BYTES_MAX) throw new Error(`channel ${channel} is over 63 bytes`)
      if (stopped) return
      if (!(lanes.get(channel) ?? shared).ring(channel, payload)) droppedCount += 1
    },

    dropped: () => droppedCount,

    async start() {},

    async stop() {
      stopped = true
      await settlesWithin(Promise.all([shared, ...lanes.values()].map((lane) => lane.landed())), STOP_FLUSH_MS)
    },
  }
}
