import type { Sql } from '../db/client.ts'
import { lazyCommit } from '../db/lazy-commit.ts'
import type { Logger } from '../lib/logger.ts'
import { createLoop, type Loop } from '../lib/loop.ts'

/** One open stream. */
export interface StreamKey {
  organizationId: string
  conversationId: string
  /** A UUID of its own, so that the end of one stream never hides another that has just begun. */
  id: string
}

/** Streams whose end is noted in one statement. */
const PAGE = 1_000

/**
 * Notes that a stream is open, as part of the transaction that decides where it starts. Under the conversation's lock
 * a turn's end either came before, and was looked at, or comes after, and finds this row.
 */
export async function notePresence(tx: Sql, stream: StreamKey, replica: string): Promise<void> {
  await tx`
    insert into stream_presence (organization_id, conversation_id, id, replica_id)
    select ${stream.organizationId}, ${stream.conversationId}, ${stream.id}, ${replica} from ${lazyCommit(tx)}`
}

/** SQL condition: some living replica has an open stream of the conversation. */
export function isWatched(sql: Sql, key: { organizationId: string; conversationId: string }) {
  return sql`exists (
    select 1 from stream_presence p join replicas r on r.id = p.replica_id and r.lease_until > now()
    where p.organization_id = ${key.organizationId} and p.conversation_id = ${key.conversationId})`
}

/** Whether any living replica has an open stream of the conversation. */
export async function hasOpenStream(
  sql: Sql,
  key: { organizationId: string; conversationId: string },
): Promise<boolean> {
  const [row] = await sql<{ watched: boolean }[]>`select ${isWatched(sql, key)} as watched`
  return row!.watched
}

/** Removes what was noted of streams of conversations that the caller's transaction removes. */
export async function removePresence(
  tx: Sql,
  { organizationId, ids }: { organizationId: string; ids: string[] },
): Promise<void> {
  await tx`
    delete from stream_presence where organization_id = ${organizationId} and conversation_id = any(${ids}::text[])`
}

export interface Presence extends Loop {
  /** Notes, a little later and together with others, that a stream is over. */
  leave(stream: StreamKey): void
}

/** Removes the rows of streams that ended. Those of a replica that died vanish with the replica's own row. */
export function createPresence({ sql, log }: { sql: Sql; log: Logger }): Presence {
  let over: StreamKey[] = []

  const loop = createLoop({ log }, { name: 'presence', everyMs: 5_000, pass })

  async function pass() {
    const page = over.slice(0, PAGE)
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
    leave(stream) {
      over.push(stream)
      loop.ring()
    },
  }
}
