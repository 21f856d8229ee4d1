/**
 * The queue of runs.
 *
 *   accepted ─┬─ nothing else open ──► ready ◄─────────────── delayed ◄─┐
 *             └─ others open ► queued ──┘ (its turn comes)     │ due     │ failed, tries left
 *                                │                             ▼         │
 *                                │ steer    ready, delayed ─claim─► running ──► completed | failed | cancelled
 *                                └──────► absorbed ── ends with the run that took it in
 *
 * A conversation has at most one run that is ready, delayed or running; the rest wait as `queued`. So a claim needs
 * no look at other rows, and its cost does not depend on how many wait. Who changes a run together with its
 * conversation locks the conversation first; claims and sweeps lock runs alone, and skip what is locked.
 *
 * How statements name many rows: the planner often takes a queue for empty, and would then walk whole tables once for
 * each row of a join (700 ms instead of 2 with 2,000 runs). So rows are named by one array of ids, for which there are
 * indexes on the ids alone, or looked up one at a time by a lateral query that locks, which is not turned round. And
 * whoever locks many runs locks them in the order of organization and id, or two that meet would wait for each other
 * until Postgres ends one.
 */
import type { Sql } from '../db/client.ts'
import { lazyCommit } from '../db/lazy-commit.ts'
import type { RunState } from '../db/tables.ts'

/** A run that this replica holds, with the number that fences its writes. */
export interface ClaimedRun {
  organizationId: string
  id: string
  conversationId: string
  turn: number
  messageId: string
  attempt: number
  fence: number
  traceparent: string | null
  /** How long it could have been claimed before it was; absent when it was claimed by its acceptance. */
  waitedMs?: number
}

export interface RunKey {
  organizationId: string
  id: string
}

export interface FencedRun extends RunKey {
  fence: number
}

/**
 * Claims up to `limit` ready runs for `replica`, one organization after the other so that none can starve another:
 * every organization with ready runs and room below its cap gets an equal share of this claim, starting after
 * `afterOrganization`.
 *
 * The organizations are found by skipping through `runs_ready_idx` (one index descent each), the runs of each are the
 * first by its order; nothing is filtered behind the ordered prefix, so the cost is the same with a million waiting.
 * `organizationMax` counts running runs as this statement sees them: claims at the same instant can pass it, each by no
 * more than what it takes. All three ways to a running run keep to it, `acceptMessage` too. Organizations with a cap
 * of their own are left to `claimCappedRuns`.
 */
export function claimReadyRuns(
  sql: Sql,
  args: { replica: string; limit: number; leaseMs: number; organizationMax: number; afterOrganization: string },
): Promise<ClaimedRun[]> {
  return sql<ClaimedRun[]>`
    with recursive waiting (organization_id) as (
      (select organization_id from runs where state = 'ready' and organization_id > ${args.afterOrganization}
        order by organization_id limit 1)
      union all
      select (select r.organization_id from runs r where r.state = 'ready' and r.organization_id > w.organization_id
        order by r.organization_id limit 1)
      from waiting w where w.organization_id is not null
    ), chosen as materialized (
      select w.organization_id, x.room
      from waiting w cross join lateral (
        select ${args.organizationMax} - count(*) as room
        from runs a where a.state = 'running' and a.organization_id = w.organization_id
      ) x
      where w.organization_id is not null and x.room > 0 and not ${hasOwnCap(sql, sql`w.organization_id`)} limit ${args.limit}
    ), share as (
      select ceil(${args.limit}::numeric / greatest(1, count(*)))::int as each from chosen
    ), picked as materialized (
      select r.organization_id, r.id
      from chosen c cross join share s cross join lateral (
        select q.organization_id, q.id from runs q
        where q.state = 'ready' and q.organization_id = c.organization_id
        order by q.ordinal
        limit least(s.each, c.room)
        for update skip locked
      ) r
      limit ${args.limit}
    )
    ${takeOver(sql, args)}`
}

/**
 * Claims runs that were kept for this very replica, because it holds the conversation's worker. Those of an organization
 * that is at its cap are left: in a moment they wait with the others.
 */
export function claimPreferredRuns(
  sql: Sql,
  args: { replica: string; limit: number; leaseMs: number; organizationMax: number },
): Promise<ClaimedRun[]> {
  return sql<ClaimedRun[]>`
    with picked as materialized (
      select organization_id, id from runs p
      where state = 'delayed' and preferred_replica is not null and preferred_replica = ${args.replica}
        and (select count(*) from runs o where o.state = 'running' and o.organization_id = p.organization_id)
          < ${args.organizationMax}
        and not ${hasOwnCap(sql, sql`p.organization_id`)}
      order by ordinal limit ${args.limit} for update skip locked
    )
    ${takeOver(sql, args)}`
}

/**
 * Whether an organization has a cap of its own: a look-up in a primary key, which costs a claim nothing that can be measured.
 * All but `claimCappedRuns` leave such runs as `ready`.
 */
export function hasOwnCap(sql: Sql, organizationId: unknown) {
  return sql`coalesce((select l.runs_max is not null from organization_limits l
    where l.organization_id = ${organizationId as never}), false)`
}

/** The second half of a claim: the picked rows become this replica's, each under its next fencing number. */
export function takeOver(sql: Sql, args: { replica: string; leaseMs: number }) {
  return sql`
    update runs r set
      state = 'running', replica = ${args.replica}, fence = r.fence + 1, attempt = r.attempt + 1, reply_batch = 0,
      lease_until = now() + ${args.leaseMs} * interval '1 millisecond',
      due_at = null, preferred_replica = null, started_at = coalesce(r.started_at, now())
    where r.id = any(array(select id from picked))
    returning r.organization_id as "organizationId", r.id, r.conversation_id as "conversationId", r.turn,
      r.message_id as "messageId", r.attempt, r.fence, r.traceparent,
      (extract(epoch from now() - coalesce(r.ready_at, r.created_at)) * 1000)::float8 as "waitedMs"`
}

/**
 * Extends the leases of the runs that this replica holds and returns those that it still holds. A run that is missing
 * from the answer was ended, cancelled or taken over: its worker must stop, and nothing it writes will be accepted.
 */
export async function renewRuns(
  sql: Sql,
  args: { replica: string; runs: FencedRun[]; leaseMs: number },
): Promise<Set<string>> {
  const held = await sql<{ id: string }[]>`
    with given as materialized (
      select * from unnest(${args.runs.map((run) => run.organizationId)}::text[],
        ${args.runs.map((run) => run.id)}::uuid[], ${args.runs.map((run) => run.fence)}::bigint[])
        as x (organization_id, id, fence) order by organization_id, id
    ), held as materialized (
      select l.id from given g cross join lateral (
        select r.id from runs r
        where r.organization_id = g.organization_id and r.id = g.id and r.fence = g.fence
          and r.state = 'running' and r.replica = ${args.replica}
        for no key update
      ) l
    )
    update runs r set lease_until = now() + ${args.leaseMs} * interval '1 millisecond'
    from ${lazyCommit(sql)} where r.id = any(array(select id from held))
    returning r.id`
  return new Set(held.map((run) => run.id))
}

/**
 * Gives a run back, to be claimed again at once or after `delayMs`. Returns false when it was no longer held.
 * `countAttempt: false` is for a hand-over, which is nobody's failure.
 */
export async function releaseRun(
  sql: Sql,
  run: FencedRun,
  { delayMs, countAttempt }: { delayMs: number; countAttempt: boolean },
): Promise<boolean> {
  const state: RunState = delayMs > 0 ? 'delayed' : 'ready'
  const rows = await sql`
    update runs set state = ${state}, replica = null, lease_until = null,
      due_at = ${delayMs > 0 ? sql`now() + ${delayMs} * interval '1 millisecond'` : sql`null`}, ready_at = now(),
      attempt = attempt - ${countAttempt ? 0 : 1}
    where organization_id = ${run.organizationId} and id = ${run.id} and fence = ${run.fence} and state = 'running'
    returning 1`
  return rows.length > 0
}

/** Makes delayed runs claimable whose time has come. Returns how many. */
export async function promoteDueRuns(sql: Sql): Promise<number> {
  const rows = await sql`
    update runs set state = 'ready', due_at = null, preferred_replica = null, ready_at = now()
    where id = any(array(
      select id from runs where state = 'delayed' and due_at <= now()
      order by due_at limit 500 for update skip locked))
    returning 1`
  return rows.length
}

/**
 * Finds runs whose holder let the lease lapse and puts them back. Those with no try left are returned instead,
 * still `running`, for the caller to end: their end must be written together with the conversation.
 */
export async function recoverLapsedRuns(
  sql: Sql,
  { attemptsMax }: { attemptsMax: number },
): Promise<{ recovered: FencedRun[]; exhausted: FencedRun[] }> {
  const recovered = await sql<FencedRun[]>`
    update runs set state = 'ready', replica = null, lease_until = null, ready_at = now()
    where id = any(array(
      select id from runs
      where state = 'running' and lease_until < now() and attempt < ${attemptsMax}
      limit 200 for update skip locked))
    returning organization_id as "organizationId", id, fence`
  const exhausted = await sql<FencedRun[]>`
    select organization_id as "organizationId", id, fence from runs
    where state = 'running' and lease_until < now() and attempt >= ${attemptsMax} limit 200`
  return { recovered, exhausted }
}

/** True while this claim of the run still counts; locks the row against a new claim, and others like this, until the transaction ends. */
export async function holdRun(sql: Sql, run: FencedRun): Promise<boolean> {
  const rows = await sql`
    select 1 from runs where organization_id = ${run.organizationId} and id = ${run.id}
      and fence = ${run.fence} and state = 'running' for no key update`
  return rows.length > 0
}
