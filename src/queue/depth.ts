import type { Sql } from '../db/client.ts'
import { inTransaction } from '../db/transaction.ts'

/** How much waits in one queue, and for how long the first of it has. */
export interface QueueDepth {
  queue: 'runs' | 'thread_response' | 'outbox'
  /** Up to `DEPTH_MAX`, which stands for that many or more. */
  depth: number
  /** 0 when nothing waits. */
  oldestSeconds: number
}

/** Nobody needs the exact length of a queue that is this long, and counting on would cost more than it tells. */
export const DEPTH_MAX = 10_000
/** Organizations and hosts whose heads are looked at for the oldest. */
const LANES_MAX = 500
/** A database that is this slow has other worries. */
const STATEMENT_MS_MAX = 1_000

/**
 * Looks at all queues at once: what could be claimed, published or called at this moment, and is not. Each count walks an
 * index of just those rows and stops at `DEPTH_MAX`; the oldest is the first of the heads that claimers look at, too.
 */
export async function readQueueDepths(sql: Sql): Promise<QueueDepth[]> {
  return inTransaction(sql, async (tx) => {
    await tx`select set_config('statement_timeout', ${String(STATEMENT_MS_MAX)}, true)`
    return tx<QueueDepth[]>`
      with recursive organization (id) as (
        (select organization_id from runs where state = 'ready' order by organization_id limit 1)
        union all
        select (select r.organization_id from runs r where r.state = 'ready' and r.organization_id > o.id
          order by r.organization_id limit 1)
        from organization o where o.id is not null
      ), lane (kind, organization_id, target_host) as (
        (select kind, organization_id, target_host from outbox where ready
          order by kind, organization_id, target_host limit 1)
        union all
        select next.kind, next.organization_id, next.target_host from lane cross join lateral (
          select o.kind, o.organization_id, o.target_host from outbox o
          where o.ready and (o.kind, o.organization_id, o.target_host) > (lane.kind, lane.organization_id, lane.target_host)
          order by o.kind, o.organization_id, o.target_host limit 1
        ) next
      ), oldest (queue, since) as (
        select 'runs', (select min(head.since) from (select id from organization where id is not null limit ${LANES_MAX}) o
          cross join lateral (select coalesce(r.ready_at, r.created_at) as since from runs r
            where r.state = 'ready' and r.organization_id = o.id order by r.ordinal limit 1) head)
        union all
        select 'thread_response', (select created_at from thread_response order by id limit 1)
        union all
        select 'outbox', (select min(head.since) from (select * from lane limit ${LANES_MAX}) l
          cross join lateral (select o.due_at as since from outbox o where o.ready and o.kind = l.kind
            and o.organization_id = l.organization_id and o.target_host = l.target_host order by o.due_at limit 1) head)
      ), depth (queue, depth) as (
        select 'runs', (select count(*)::int from (select 1 from runs where state = 'ready' limit ${DEPTH_MAX}) x)
        union all
        select 'thread_response', (select count(*)::int from (select 1 from thread_response limit ${DEPTH_MAX}) x)
        union all
        select 'outbox', (select count(*)::int from (select 1 from outbox where ready limit ${DEPTH_MAX}) x)
      )
      select queue, depth, coalesce(greatest(0, extract(epoch from now() - since)), 0)::float8 as "oldestSeconds"
      from oldest join depth using (queue)`
  })
}
