import type { Sql } from '../db/client.ts'
import { lazyCommit } from '../db/lazy-commit.ts'
import type { Logger } from '../lib/logger.ts'
import { createLoop, type Loop } from '../lib/loop.ts'
import { channelKey } from './tail.ts'

/** One open stream. */
export interface StreamKey {
  organizationId: string
  conversationId: string
  /** A UUID of its own, so that the end of one stream never hides another that has just begun. */
  id: string
}

/** What is written in one statement. */
const PAGE = 1_000
/** Conversations of which an end may wait to be noted as seen. One more, and the oldest is taken for unseen. */
const SEEN_MAX = 20_000
/** Streams that are over and may wait for that. One more, and the oldest are taken for closed before they had shown it. */
const OVER_MAX = 20_000

/** Notes that a stream is open, as part of the transaction that decides where it starts. */
export async function notePresence(
  tx: Sql,
  stream: StreamKey,
  { replica, after }: { replica: string; after: number },
): Promise<void> {
  await tx`
    insert into stream_presence (organization_id, conversation_id, id, replica_id, after_seq)
    select ${stream.organizationId}, ${stream.conversationId}, ${stream.id}, ${replica}, ${after} from ${lazyCommit(tx)}`
}

/** Whether any living replica has an open stream of the conversation; with `before`, one that began before that number. */
export async function hasOpenStream(
  sql: Sql,
  { organizationId, conversationId, before }: { organizationId: string; conversationId: string; before?: number },
): Promise<boolean> {
  const rows = await sql`
    select 1 from stream_presence p join replicas r on r.id = p.replica_id and r.lease_until > now()
    where p.organization_id = ${organizationId} and p.conversation_id = ${conversationId}
      and (${before ?? null}::bigint is null or p.after_seq < ${before ?? null}) limit 1`
  return rows.length > 0
}

/** Removes what was noted of streams of conversations that the caller's transaction removes. */
export async function removePresence(
  tx: Sql,
  { organizationId, ids }: { organizationId: string; ids: string[] },
): Promise<void> {
  await tx`
    delete from stream_presence where organization_id = ${organizationId} and conversation_id = any(${ids}::text[])`
}

/** A conversation, and the number up to which ends of its turns have reached somebody. */
export interface SeenEnds {
  organizationId: string
  conversationId: string
  seq: number
}

export interface PresenceDeps {
  sql: Sql
  log: Logger
  /** Writes down what was seen; what is older than a minute need not be. */
  noteEndsSeen(seen: SeenEnds[]): Promise<void>
}

export interface Presence extends Loop {
  /** Notes, likewise, that the ends up to this number have reached a reader of the conversation. */
  seen(conversation: { organizationId: string; conversationId: string }, seq: number): void
  /** Notes, a little later and together with others, that a stream is over. */
  leave(stream: StreamKey): void
}

/** Notes what streams have shown, and removes the rows of those that are over. Those of a replica that died vanish with the replica's own row. */
export function createPresence({ sql, log, noteEndsSeen }: PresenceDeps): Presence {
  let over: StreamKey[] = []
  const seen = new Map<string, SeenEnds>()

  const loop = createLoop({ log }, { name: 'presence', everyMs: 5_000, pass })

  async function pass() {
    // Taken before what was seen is: a stream that is over counts until what it has shown is noted.
    const left = over.length
    try {
      await noteSeen()
    } catch (error) {
      while (over.length > OVER_MAX) await removeOver(over.length)
      throw error
    }
    return removeOver(left)
  }

  async function noteSeen() {
    while (seen.size > 0) {
      const page = [...seen.entries().take(PAGE)]
      await noteEndsSeen(page.map(([, one]) => one))
      for (const [key, one] of page) if (seen.get(key) === one) seen.delete(key)
    }
  }

  async function removeOver(left: number) {
    const page = over.slice(0, Math.min(PAGE, left))
    if (page.length === 0) return false
    await sql`
      delete from stream_presence p
      using ${lazyCommit(sql)}, unnest(${page.map((s) => s.organizationId)}::text[],
        ${page.map((s) => s.conversationId)}::text[], ${page.map((s) => s.id)}::uuid[])
        as x (organization_id, conversation_id, id)
      where p.organization_id = x.organization_id and p.conversation_id = x.conversation_id and p.id = x.id`
    over = over.slice(page.length)
    return over.length > 0
  }

  return {
    ...loop,
    async stop() {
      await loop.stop()
      // The rows go with the replica's; what was seen would be shown again.
      await noteSeen().catch(() => {})
    },
    seen({ organizationId, conversationId }, seq) {
      const key = channelKey(organizationId, conversationId)
      if (seq <= (seen.get(key)?.seq ?? 0)) return
      seen.delete(key)
      seen.set(key, { organizationId, conversationId, seq })
      if (seen.size > SEEN_MAX) seen.delete(seen.keys().next().value!)
      loop.ring()
    },
    leave(stream) {
      over.push(stream)
      loop.ring()
    },
  }
}
