/**
 * The way of a reply from the replica that produces it to the log that every replica reads.
 *
 *   insertReplies (fenced, batched) ──► thread_response ──publishReplies, any replica──► event_log
 *
 * Events travel as lines: `<name> <one-line JSON>`, joined by LF. Nobody on the way parses the JSON.
 */
import type { Sql } from '../db/client.ts'
import { lazyCommit } from '../db/lazy-commit.ts'
import type { FencedRun } from './runs.ts'

/** Events of one run that were produced since its last batch. */
export interface ReplyBatch extends FencedRun {
  conversationId: string
  /** 1 for a claim's first batch, then up by one. */
  batch: number
  eventCount: number
  events: string
  /** Of the attempt, on its first batch when it is traced. */
  traceparent?: string | null
}

/** Consecutive events of one conversation, as they stand in the log. */
export interface PublishedEvents {
  organizationId: string
  conversationId: string
  firstSeq: number
  lastSeq: number
  events: string
  /** Of an attempt whose first words are among them. */
  traceparent?: string | null
}

/**
 * Puts batches on the queue and returns the ids of the runs whose batch is stored.
 *
 * A batch is taken only while its claim of the run counts, and only as the claim's next one: when a connection dies
 * before the answer, the same batch can be sent again. The run's row stays locked until this commits, so a new claim
 * waits for it: whoever claims next sees every reply of the claim before, and none comes after (I5). The commit does
 * not wait for the disk: nobody sees a reply before it is published, and that commit carries this one along.
 *
 * A run is found by its id, the rest is compared: the two columns are dressed up so that no index offers itself for them. Before
 * the first statistics are there one by organization looks as good, and walks over all its open runs for each batch.
 */
export async function insertReplies(sql: Sql, batches: ReplyBatch[]): Promise<Set<string>> {
  const rows = await sql<{ id: string }[]>`
    with given as materialized (
      select * from unnest(${batches.map((b) => b.organizationId)}::text[], ${batches.map((b) => b.id)}::uuid[],
        ${batches.map((b) => b.fence)}::bigint[], ${batches.map((b) => b.conversationId)}::text[],
        ${batches.map((b) => b.batch)}::int[], ${batches.map((b) => b.eventCount)}::int[],
        ${batches.map((b) => b.events)}::text[], ${batches.map((b) => b.traceparent ?? null)}::text[])
        as x (organization_id, run_id, fence, conversation_id, batch, event_count, events, traceparent)
    ), locked as materialized (
      select l.id, g.organization_id, g.conversation_id, g.batch, g.event_count, g.events, g.traceparent
      from (select * from given order by organization_id, run_id) g cross join lateral (
        select r.id from runs r
        where r.id = g.run_id and r.organization_id || '' = g.organization_id and r.fence = g.fence
          and r.state || '' = 'running' and r.reply_batch = g.batch - 1
        for no key update
      ) l
    ), held as (
      update runs r set reply_batch = r.reply_batch + 1 where r.id = any(array(select id from locked))
      returning r.id
    ), put as (
      insert into thread_response (organization_id, conversation_id, event_count, events, traceparent)
      select organization_id, conversation_id, event_count, events, traceparent from locked
    )
    select id from held cross join ${lazyCommit(sql)}`
  const stored = new Set(rows.map((row) => row.id))
  const missing = batches.filter((batch) => !stored.has(batch.id))
  for (const { id } of await findStored(sql, missing)) stored.add(id)
  return stored
}

/** Of batches that were not taken, those that are there already. A statement of its own: it sees what the first waited for. */
async function findStored(sql: Sql, batches: ReplyBatch[]): Promise<{ id: string }[]> {
  if (batches.length === 0) return []
  return sql<{ id: string }[]>`
    select r.id
    from unnest(${batches.map((b) => b.organizationId)}::text[], ${batches.map((b) => b.id)}::uuid[],
      ${batches.map((b) => b.fence)}::bigint[], ${batches.map((b) => b.batch)}::int[])
      as g (organization_id, run_id, fence, batch)
    join runs r on r.organization_id = g.organization_id and r.id = g.run_id
    where r.fence = g.fence and r.reply_batch = g.batch`
}

/** What one pass published, and what it saw of the queue. */
export interface PublishPass {
  published: PublishedEvents[]
  /** Rows that it looked at, and those of them that it left because somebody held their conversation. */
  seen: number
  left: number
  /** The lowest id of what it looked at and the highest; 0 when there was nothing. */
  lowestId: number
  highestId: number
  /** Every transaction below this number was over when the pass looked. */
  oldestXid: number
  /** Every transaction that had begun to write by then is below this number. */
  nextXid: number
}

/**
 * Publishes waiting replies, oldest first: takes them off the queue and appends them to the log of their conversation
 * under its next numbers, in one statement (I2). A conversation that another publisher holds at this moment is left to
 * it. `afterId` skips rows that are known to be gone, whose dead versions a long transaction may keep in the index.
 *
 * Its shape: see `queue/runs.ts` on how many rows are named to the planner. Here they are named by their place, which this
 * statement has just read and nobody can give to another row while it runs: a table that was empty when the plan was made
 * looks alike through each of its indexes, and through the wrong one every row of a backlog is a walk over all of it.
 */
export async function publishReplies(
  sql: Sql,
  { rowsMax, afterId }: { rowsMax: number; afterId: number },
): Promise<PublishPass> {
  const rows = await sql<(PublishedEvents & Omit<PublishPass, 'published'>)[]>`
    with head as materialized (
      select ctid as place, id, organization_id, conversation_id from thread_response
      where id > ${afterId} order by id limit ${rowsMax}
    ), held as materialized (
      select c.organization_id, c.id as conversation_id, c.last_seq, h.places
      from (select organization_id, conversation_id, array_agg(place) as places from head group by 1, 2) h
      cross join lateral (
        select organization_id, id, last_seq from conversations c
        where c.organization_id = h.organization_id and c.id = h.conversation_id
        for no key update skip locked
      ) c
    ), taken as (
      delete from thread_response where ctid = any(array(select unnest(places) from held))
      returning id, organization_id, conversation_id, event_count, events, traceparent
    ), joined as materialized (
      select organization_id, conversation_id, sum(event_count) as count, string_agg(events, E'\n' order by id) as events,
        max(traceparent) as traceparent
      from taken group by 1, 2
    ), packed as materialized (
      select j.organization_id, j.conversation_id, h.last_seq + 1 as first_seq, h.last_seq + j.count as last_seq, j.events,
        j.traceparent
      from joined j join held h on h.organization_id = j.organization_id and h.conversation_id = j.conversation_id
    ), appended as (
      insert into event_log (organization_id, conversation_id, first_seq, last_seq, events)
      select organization_id, conversation_id, first_seq, last_seq, events from packed
    ), moved as (
      update conversations c set last_seq = p.last_seq from packed p
      where c.id = any(array(select conversation_id from packed))
        and c.organization_id = p.organization_id and c.id = p.conversation_id
    ), page as (
      select count(*)::int as seen, (count(*) - (select count(*) from taken))::int as left_over,
        coalesce(min(id), 0)::bigint as lowest, coalesce(max(id), 0)::bigint as highest
      from head
    )
    select p.organization_id as "organizationId", p.conversation_id as "conversationId",
      p.first_seq::bigint as "firstSeq", p.last_seq::bigint as "lastSeq", p.events, p.traceparent,
      s.seen, s.left_over as "left", s.lowest as "lowestId", s.highest as "highestId",
      pg_snapshot_xmin(pg_current_snapshot())::text::bigint as "oldestXid",
      pg_snapshot_xmax(pg_current_snapshot())::text::bigint as "nextXid"
    from page s left join packed p on true`
  const { seen, left, lowestId, highestId, oldestXid, nextXid } = rows[0]!
  const published = rows.filter((row) => row.organizationId !== null)
  return { published, seen, left, lowestId, highestId, oldestXid, nextXid }
}

/**
 * Removes replies at the head of the queue whose conversation was removed. Nobody could publish them, and enough of them
 * would be all that publishers ever see. Returns how many.
 */
export async function removeOrphanedReplies(sql: Sql, { rowsMax }: { rowsMax: number }): Promise<number> {
  const rows = await sql`
    delete from thread_response where ctid = any(array(
      select h.place from (
        select ctid as place, organization_id, conversation_id from thread_response order by id limit ${rowsMax}
      ) h
      where not exists (
        select 1 from conversations c where c.organization_id = h.organization_id and c.id = h.conversation_id)))
    returning 1`
  return rows.length
}

/** Replies taken off the queue. */
export interface TakenReplies {
  count: number
  lines: string[]
}

export const NO_REPLIES: TakenReplies = { count: 0, lines: [] }

/** Takes off the queue all that waits for one conversation, whose row the caller's transaction holds. */
export async function takeReplies(
  tx: Sql,
  { organizationId, conversationId }: { organizationId: string; conversationId: string },
): Promise<TakenReplies> {
  const waiting = await tx<{ id: number; eventCount: number; events: string }[]>`
    delete from thread_response where organization_id = ${organizationId} and conversation_id = ${conversationId}
    returning id, event_count as "eventCount", events`
  waiting.sort((a, b) => a.id - b.id)
  return { count: waiting.reduce((sum, row) => sum + row.eventCount, 0), lines: waiting.map((row) => row.events) }
}

/** Numbers replies, and then `extra`, behind `lastSeq`; null when there is nothing. `appendEvents` writes them down. */
export function numberEvents(
  taken: TakenReplies,
  args: { organizationId: string; conversationId: string; lastSeq: number; extra: string[] },
): PublishedEvents | null {
  const { organizationId, conversationId, lastSeq, extra } = args
  const count = taken.count + extra.length
  if (count === 0) return null
  const events = [...taken.lines, ...extra].join('\n')
  return { organizationId, conversationId, firstSeq: lastSeq + 1, lastSeq: lastSeq + count, events }
}

/** Appends to the log of a conversation whose row the caller's transaction holds, and writes the new last number back to. */
export async function appendEvents(tx: Sql, given: PublishedEvents): Promise<void> {
  await tx`
    insert into event_log (organization_id, conversation_id, first_seq, last_seq, events)
    values (${given.organizationId}, ${given.conversationId}, ${given.firstSeq}, ${given.lastSeq}, ${given.events})`
}

/** Removes what waits for conversations that the caller's transaction removes. */
export async function removeReplies(
  tx: Sql,
  { organizationId, ids }: { organizationId: string; ids: string[] },
): Promise<void> {
  await tx`
    delete from thread_response where organization_id = ${organizationId} and conversation_id = any(${ids}::text[])`
}
