import type { Sql } from '../db/client.ts'
import type { Logger } from '../lib/logger.ts'
import { createLoop, type Loop } from '../lib/loop.ts'
import { type LogRow, readHeads, readLogs } from './event-log.ts'
import { type LoggedEvent, parseEventLines } from './frames.ts'

/** A conversation that somebody on this replica follows. */
export interface Channel {
  readonly organizationId: string
  readonly conversationId: string
  /** Number of the last event that was handed to the follower. */
  head: number
  /** Called with consecutive events, the first of which is `head + 1` as it was before. */
  onEvents(events: LoggedEvent[]): void
  /** Called when what comes next is no longer kept: the follower must start over. */
  onGap(): void
  /** Called when the conversation was ended or removed, after its last event. */
  onEnded(): void
}

export interface Tail extends Loop {
  follow(channel: Channel): void
  unfollow(channel: Channel): void
  /**
   * Takes rows that came by the doorbell or from this replica's own publisher. They are a hint: a row is used only
   * when it continues exactly where the channel stands, anything else makes the channel read the log.
   */
  offer(rows: LogRow[]): void
  /** Doorbells may have been lost, for one conversation or for all: the next pass looks at the tables. */
  suspect(key?: string): void
}

/** The name of a conversation in this process's maps and in doorbell messages. */
export function channelKey(organizationId: string, conversationId: string): string {
  return `${organizationId}/${conversationId}`
}

/** Conversations asked for in one statement. */
const PAGE = 500
/** Rows read of one conversation at a time. */
const ROWS_MAX = 64

/**
 * The one reader of the log for all streams of this replica.
 *
 * Rows that arrive by hint cost no query. A gap, a doorbell that came without rows, a reconnect of LISTEN and the
 * poll all end in the same place: `pass` reads what lies after each suspect channel's head (I3, I8).
 */
export function createTail({ sql, log }: { sql: Sql; log: Logger }, { pollMs }: { pollMs(): number }): Tail {
  const channels = new Map<string, Channel>()
  /** Channels whose log lies ahead of their head, as far as anyone knows. */
  const behind = new Set<string>()
  /** Channels whose conversation is to be looked at in the next pass. */
  const unsure = new Set<string>()
  /** Ended conversations, with the number that their channel must reach before it is told. */
  const ending = new Map<string, number>()
  let headsDueAt = 0

  const loop = createLoop({ log }, { name: 'tail', everyMs: pollMs, pass })

  async function pass() {
    if (performance.now() >= headsDueAt) {
      headsDueAt = performance.now() + pollMs() * 0.8
      for (const key of channels.keys()) unsure.add(key)
    }
    await page(unsure, checkHeads)
    await page(behind, readBehind)
    tellEnded()
    return unsure.size > 0 || behind.size > 0
  }

  /** Works on up to a page of `keys`; they are put back when the work fails. */
  async function page(keys: Set<string>, work: (own: Channel[]) => Promise<void>) {
    const taken = [...keys.values().take(PAGE)]
    for (const key of taken) keys.delete(key)
    const own = taken.flatMap((key) => channels.get(key) ?? [])
    if (own.length === 0) return
    await work(own).catch((error: unknown) => {
      for (const key of taken) keys.add(key)
      throw error
    })
  }

  /** Compares channels with their conversations: catches lost doorbells and conversations that were ended. */
  async function checkHeads(own: Channel[]) {
    const heads = new Map((await readHeads(sql, own)).map((h) => [channelKey(h.organizationId, h.conversationId), h]))
    for (const channel of own) {
      const key = channelKey(channel.organizationId, channel.conversationId)
      const head = heads.get(key)
      if (head && head.lastSeq > channel.head) behind.add(key)
      if (!head || head.ended) ending.set(key, head?.lastSeq ?? 0)
    }
  }

  async function readBehind(own: Channel[]) {
    const rows = await readLogs(
      sql,
      own.map((channel) => ({ ...channel, after: channel.head })),
      ROWS_MAX,
    )
    const counts = new Map<string, number>()
    for (const row of rows) {
      const key = channelKey(row.organizationId, row.conversationId)
      const channel = channels.get(key)
      if (channel && !accept(channel, row)) channel.onGap()
      counts.set(key, (counts.get(key) ?? 0) + 1)
    }
    for (const [key, count] of counts) if (count === ROWS_MAX) behind.add(key)
  }

  function tellEnded() {
    for (const [key, lastSeq] of ending) {
      const channel = channels.get(key)
      if (channel && channel.head < lastSeq) continue
      ending.delete(key)
      channel?.onEnded()
    }
  }

  /** Hands on what of this row the channel does not have yet. Returns false when something before it is missing. */
  function accept(channel: Channel, row: LogRow): boolean {
    if (row.lastSeq <= channel.head) return true
    if (row.firstSeq > channel.head + 1) return false
    const events = parseEventLines(row.events, row.firstSeq)
    const fresh = row.firstSeq > channel.head ? events : events.slice(channel.head + 1 - row.firstSeq)
    channel.head = row.lastSeq
    channel.onEvents(fresh)
    return true
  }

  return {
    ...loop,
    follow(channel) {
      const key = channelKey(channel.organizationId, channel.conversationId)
      channels.set(key, channel)
      // What was published between the caller's look at the conversation and this moment rang for nobody.
      behind.add(key)
      loop.ring()
    },
    unfollow(channel) {
      const key = channelKey(channel.organizationId, channel.conversationId)
      if (channels.get(key) === channel) channels.delete(key)
    },
    offer(rows) {
      for (const row of rows) {
        const key = channelKey(row.organizationId, row.conversationId)
        const channel = channels.get(key)
        if (!channel || accept(channel, row)) continue
        behind.add(key)
        loop.ring()
      }
    },
    suspect(key) {
      if (key === undefined) headsDueAt = 0
      else unsure.add(key)
      loop.ring()
    },
  }
}
