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
  /** Called when the conversation was ended or removed, after its last event; again with each poll while it is followed. */
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
const PAGE = 200

/**
 * The one reader of the log for all streams of this replica.
 *
 * Rows that arrive by hint cost no query. A gap, a doorbell that came without rows, a reconnect of LISTEN and the
 * poll all end in the same place: `pass` reads what lies after each suspect channel's head (I3, I8).
 */
export function createTail({ sql, log }: { sql: Sql; log: Logger }, { pollMs }: { pollMs(): number }): Tail {
  const channels = new Map<string, Channel>()
  /** Channels that stand before a number which is known to be in the log. */
  const behind = new Map<string, number>()
  /** Channels whose conversation is to be looked at in the next pass. */
  const unsure = new Map<string, number>()
  /** Ended conversations, with the number that their channel must reach before it is told. */
  const ending = new Map<string, number>()
  let headsDueAt = 0

  const loop = createLoop({ log }, { name: 'tail', everyMs: pollMs, pass })

  async function pass() {
    if (performance.now() >= headsDueAt) {
      headsDueAt = performance.now() + pollMs() * 0.8
      for (const key of channels.keys()) unsure.set(key, 0)
    }
    await page(unsure, checkHeads)
    await page(behind, readBehind)
    tellEnded()
    return unsure.size > 0 || behind.size > 0
  }

  /** Works on up to a page of what is due; it is put back when the work fails. */
  async function page(due: Map<string, number>, work: (own: Channel[], taken: Map<string, number>) => Promise<void>) {
    const taken = new Map(due.entries().take(PAGE))
    for (const key of taken.keys()) due.delete(key)
    const own = [...taken.keys()].flatMap((key) => channels.get(key) ?? [])
    if (own.length === 0) return
    await work(own, taken).catch((error: unknown) => {
      for (const [key, seq] of taken) raise(due, key, seq)
      throw error
    })
  }

  /** Compares channels with their conversations: catches lost doorbells and conversations that were ended. */
  async function checkHeads(own: Channel[]) {
    const heads = new Map((await readHeads(sql, own)).map((head) => [keyOf(head), head]))
    for (const channel of own) {
      const head = heads.get(keyOf(channel))
      if (head && head.lastSeq > channel.head) raise(behind, keyOf(channel), head.lastSeq)
      if (!head || head.ended) ending.set(keyOf(channel), head?.lastSeq ?? 0)
    }
  }

  async function readBehind(own: Channel[], known: Map<string, number>) {
    const positions = own.map((channel) => ({ ...channel, after: channel.head }))
    const found = Map.groupBy(await readLogs(sql, positions), keyOf)
    for (const channel of own) {
      const key = keyOf(channel)
      // While this was read the channel may have gone, and another may have come in its place.
      if (channels.get(key) !== channel) continue
      const rows = found.get(key) ?? []
      const whole = rows.every((row) => accept(channel, row))
      if (whole && channel.head >= known.get(key)!) continue
      // No row is left of what is known to have been there: it was removed.
      if (whole && rows.length > 0) raise(behind, key, known.get(key)!)
      else channel.onGap()
    }
  }

  function tellEnded() {
    for (const [key, lastSeq] of ending) {
      const channel = channels.get(key)
      if (channel && channel.head < lastSeq) continue
      ending.delete(key)
      channel?.onEnded()
    }
  }

  /** Hands on what of this row the channel does not have yet. Returns false when it does not continue the channel. */
  function accept(channel: Channel, row: LogRow): boolean {
    if (row.lastSeq <= channel.head) return true
    if (row.firstSeq > channel.head + 1) return false
    const events = parseEventLines(row.events, row.firstSeq)
    if (events.length !== row.lastSeq - row.firstSeq + 1) return false
    const fresh = row.firstSeq > channel.head ? events : events.slice(channel.head + 1 - row.firstSeq)
    channel.head = row.lastSeq
    channel.onEvents(fresh)
    return true
  }

  return {
    ...loop,
    follow(channel) {
      channels.set(keyOf(channel), channel)
      // What happened between the caller's look at the conversation and this moment rang for nobody.
      unsure.set(keyOf(channel), 0)
      loop.ring()
    },
    unfollow(channel) {
      if (channels.get(keyOf(channel)) === channel) channels.delete(keyOf(channel))
    },
    offer(rows) {
      for (const row of rows) {
        const channel = channels.get(keyOf(row))
        if (!channel || accept(channel, row)) continue
        raise(behind, keyOf(row), row.lastSeq)
        loop.ring()
      }
    },
    suspect(key) {
      if (key === undefined) headsDueAt = 0
      // Others ring for every conversation there is; what nobody follows here would only pile up.
      else if (channels.has(key)) unsure.set(key, 0)
      else return
      loop.ring()
    },
  }
}

function keyOf({ organizationId, conversationId }: { organizationId: string; conversationId: string }): string {
  return channelKey(organizationId, conversationId)
}

function raise(due: Map<string, number>, key: string, seq: number) {
  due.set(key, Math.max(seq, due.get(key) ?? 0))
}
