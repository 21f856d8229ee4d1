import type { Sql } from '../db/client.ts'
import type { PublishedEvents } from '../queue/thread-response.ts'

/** Rows of the log, each a run of consecutive events. */
export type LogRow = PublishedEvents

export interface Position {
  organizationId: string
  conversationId: string
  /** Number of the last event that is already known. */
  after: number
}

/** What one read may bring of a conversation: a page of rows, cut off where it grows too large for the memory. */
const ROWS_MAX = 64
const BYTES_MAX = 524_288

/**
 * The first rows of each conversation that end after its position, oldest first: at most 64, and none that begins
 * behind the first 512 KiB. No row means that there is none. Served by the primary key; sizes are in the rows' headers,
 * so nothing large is read to be left out.
 */
export function readLogs(sql: Sql, positions: Position[]): Promise<LogRow[]> {
  return sql<LogRow[]>`
    select l.organization_id as "organizationId", l.conversation_id as "conversationId",
      l.first_seq as "firstSeq", l.last_seq as "lastSeq", l.events
    from unnest(${positions.map((p) => p.organizationId)}::text[], ${positions.map((p) => p.conversationId)}::text[],
      ${positions.map((p) => p.after)}::bigint[]) as x (organization_id, conversation_id, after)
    cross join lateral (
      select page.*, sum(octet_length(events)) over (order by last_seq) - octet_length(events) as bytes_before
      from (
        select * from event_log e
        where e.organization_id = x.organization_id and e.conversation_id = x.conversation_id and e.last_seq > x.after
        order by e.last_seq limit ${ROWS_MAX}
      ) page
    ) l
    where l.bytes_before < ${BYTES_MAX}
    order by l.organization_id, l.conversation_id, l.last_seq`
}

/** Where the conversations stand: the number given last, and whether they still live. Missing ones were removed. */
export function readHeads(
  sql: Sql,
  keys: { organizationId: string; conversationId: string }[],
): Promise<{ organizationId: string; conversationId: string; lastSeq: number; ended: boolean }[]> {
  return sql`
    select c.organization_id as "organizationId", c.id as "conversationId", c.last_seq as "lastSeq",
      c.status = 'ended' as ended
    from unnest(${keys.map((k) => k.organizationId)}::text[], ${keys.map((k) => k.conversationId)}::text[])
      as x (organization_id, conversation_id)
    join conversations c on c.organization_id = x.organization_id and c.id = x.conversation_id`
}

/**
 * Removes the events of turns that ended more than `keepMs` ago, and notes in the conversation how far it went: an
 * older position now gets `reset`. A run that was cancelled while it waited ends within another's events (its `end_seq`
 * lies behind the conversation's): it stays until that turn has ended. Returns the number of turns removed, at most `turnsMax`.
 */
export async function pruneLog(sql: Sql, { keepMs, turnsMax }: { keepMs: number; turnsMax: number }): Promise<number> {
  const rows = await sql`
    with old as materialized (
      select r.organization_id, r.id, r.conversation_id, r.end_seq from runs r
      join conversations c on c.organization_id = r.organization_id and c.id = r.conversation_id
      where r.end_seq is not null and r.ended_at < now() - ${keepMs} * interval '1 millisecond'
        and r.end_seq <= c.end_seq
      order by r.ended_at limit ${turnsMax} for update of r skip locked
    ), reach as (
      select organization_id, conversation_id, max(end_seq) as seq from old group by organization_id, conversation_id
    ), held as materialized (
      select c.organization_id, c.id, r.seq from conversations c
      join reach r on r.organization_id = c.organization_id and r.conversation_id = c.id
      for no key update of c skip locked
    ), moved as (
      update conversations c set pruned_seq = greatest(c.pruned_seq, h.seq) from held h
      where c.organization_id = h.organization_id and c.id = h.id
    ), gone as (
      delete from event_log l using held h
      where l.organization_id = h.organization_id and l.conversation_id = h.id and l.last_seq <= h.seq
    )
    update runs r set start_seq = null, end_seq = null
    from old o join held h on h.organization_id = o.organization_id and h.id = o.conversation_id
    where r.organization_id = o.organization_id and r.id = o.id
    returning 1`
  return rows.length
}

/** Removes all events of an agent's conversations, before these are removed themselves: without them nothing would find the events. */
export async function removeLogs(tx: Sql, key: { organizationId: string; agentId: string }): Promise<void> {
  await tx`
    delete from event_log l using conversations c
    where c.organization_id = ${key.organizationId} and c.agent_id = ${key.agentId}
      and l.organization_id = c.organization_id and l.conversation_id = c.id`
}

/** Removes all events of conversations that the caller's transaction removes. */
export async function removeConversationLogs(
  tx: Sql,
  { organizationId, ids }: { organizationId: string; ids: string[] },
): Promise<void> {
  await tx`delete from event_log where organization_id = ${organizationId} and conversation_id = any(${ids}::text[])`
}
