/**
 * Calls that are owed to the outside.
 *
 *   inserted ──► ready ──claim: attempt + 1──► leased ──complete──► deleted
 *                  ▲                            │ │ └───bury──────► dead_letters
 *                  │       its lease is over    │ │
 *                  ├────────────────────────────┘ │ postpone
 *                  └── its time has come ── waiting ◄┘
 *
 * A row is inserted by the transaction that owes the call, and deleted only after the call was answered. So a crash in
 * between repeats the call: **at least once**, always under the same id. `attempt` is the fence: whoever holds an earlier
 * claim changes nothing any more. `due_at` is when a leased or waiting row becomes ready, by the database's clock.
 *
 * Ready rows lie in lanes, one for each organization and host. Claimers visit the lanes in turn and read only their
 * heads, so a lane with a million rows costs no more than one with a single row, and delays no other.
 */
import type { Sql } from '../db/client.ts'

/** The calls of one organization to one host, which share their fate. */
export interface Lane {
  organizationId: string
  targetHost: string
}

/** A call that this process may make until the lease ends. */
export interface ClaimedCall extends Lane {
  id: string
  target: string
  payload: Record<string, unknown>
  /** Of what owes the call; goes out with it. */
  traceparent: string | null
  /** 1 for the first try; the fence of this claim. */
  attempt: number
}

/** Rows made ready in one statement. */
const PROMOTED_MAX = 500

/**
 * Makes calls ready whose time has come or whose lease is over, those due longest first. Returns true when there may be
 * more. Served by `outbox_due_idx`, which holds just the rows that are not ready.
 */
export async function promoteDueCalls(sql: Sql): Promise<boolean> {
  const rows = await sql`
    with picked as materialized (
      select organization_id, id from outbox where not ready and due_at <= now()
      order by due_at limit ${PROMOTED_MAX} for update skip locked
    )
    update outbox o set ready = true
    from picked p where o.organization_id = p.organization_id and o.id = p.id
    returning 1`
  return rows.length === PROMOTED_MAX
}

/**
 * The lanes behind `after` in which calls are ready, `lanesMax` at most, with the number of these calls up to
 * `perLaneMax`. `last` is where the next look goes on, null at the end of all lanes.
 *
 * Served by `outbox_ready_idx`: one descent finds the next lane, one more its head. What lies behind a head is not read.
 */
export async function readReadyLanes(
  sql: Sql,
  args: { kind: string; after: Lane | null; lanesMax: number; perLaneMax: number },
): Promise<{ lanes: (Lane & { ready: number })[]; last: Lane | null }> {
  const { kind, after, lanesMax, perLaneMax } = args
  const lanes = await sql<(Lane & { ready: number })[]>`
    with recursive lane (organization_id, target_host, n) as (
      (select organization_id, target_host, 1 from outbox
        where ready and kind = ${kind}
          and (organization_id, target_host) > (${after?.organizationId ?? ''}::text, ${after?.targetHost ?? ''}::text)
        order by organization_id, target_host limit 1)
      union all
      select next.organization_id, next.target_host, lane.n + 1
      from lane cross join lateral (
        select o.organization_id, o.target_host from outbox o
        where o.ready and o.kind = ${kind}
          and (o.organization_id, o.target_host) > (lane.organization_id, lane.target_host)
        order by o.organization_id, o.target_host limit 1
      ) next
      where lane.n < ${lanesMax}
    )
    select lane.organization_id as "organizationId", lane.target_host as "targetHost", (
      select count(*)::int from (
        select 1 from outbox o
        where o.ready and o.kind = ${kind} and o.organization_id = lane.organization_id
          and o.target_host = lane.target_host
        limit ${perLaneMax}
      ) head) as ready
    from lane order by lane.n`
  return { lanes, last: lanes.length === lanesMax ? lanes.at(-1)! : null }
}

/**
 * Leases the first ready calls of the given lanes, `count` of each at most. A call that another process is claiming at
 * this moment is skipped, not waited for. Served by `outbox_ready_idx`, in its order.
 */
export async function claimCalls(
  sql: Sql,
  args: { kind: string; lanes: (Lane & { count: number })[]; leaseMs: number },
): Promise<ClaimedCall[]> {
  const { kind, lanes, leaseMs } = args
  return sql<ClaimedCall[]>`
    with picked as materialized (
      select head.organization_id, head.id
      from unnest(${lanes.map((lane) => lane.organizationId)}::text[], ${lanes.map((lane) => lane.targetHost)}::text[],
        ${lanes.map((lane) => lane.count)}::int[]) as lane (organization_id, target_host, count)
      cross join lateral (
        select o.organization_id, o.id from outbox o
        where o.ready and o.kind = ${kind} and o.organization_id = lane.organization_id
          and o.target_host = lane.target_host
        order by o.due_at limit lane.count for update skip locked
      ) head
    )
    update outbox o set ready = false, attempt = o.attempt + 1, due_at = now() + ${leaseMs} * interval '1 millisecond'
    from picked p where o.organization_id = p.organization_id and o.id = p.id
    returning o.organization_id as "organizationId", o.id, o.target, o.target_host as "targetHost", o.payload,
      o.traceparent, o.attempt`
}

/** A claim of one call. */
type Claim = Pick<ClaimedCall, 'organizationId' | 'id' | 'attempt'>

/** Removes a call that was made. False when it was claimed anew meanwhile: it is being made once more. */
export async function completeCall(sql: Sql, claim: Claim): Promise<boolean> {
  const gone = await sql`delete from outbox where ${stillClaimed(sql, claim)} returning 1`
  return gone.length > 0
}

/** Gives a call back, to be claimed after `delayMs`. False when it was claimed anew meanwhile. */
export async function postponeCall(sql: Sql, claim: Claim, { delayMs }: { delayMs: number }): Promise<boolean> {
  const back = await sql`
    update outbox set ready = false, due_at = now() + ${delayMs} * interval '1 millisecond'
    where ${stillClaimed(sql, claim)} returning 1`
  return back.length > 0
}

/**
 * Moves a call to `dead_letters` with all that is needed to make it by hand, in one statement: at every moment it is in
 * exactly one of the two tables. False when it was claimed anew meanwhile.
 */
export async function buryCall(
  sql: Sql,
  claim: Claim,
  { error, attempts }: { error: string; attempts: number },
): Promise<boolean> {
  const buried = await sql`
    with gone as (
      delete from outbox where ${stillClaimed(sql, claim)}
      returning organization_id, id, kind, target, payload, created_at
    )
    ${toDeadLetters(sql, { error, attempts: sql`${attempts}` })} returning 1`
  return buried.length > 0
}

/**
 * Buries calls that have been owed for more than `keepMs`, at most `rowsMax`, those owed longest first: of a lane that is
 * never served, or of a process that never comes to an end with them. Returns how many. A call that somebody is making, or
 * that waits for its next try, is left until it is ready. Served by `outbox_created_idx`.
 */
export async function buryOldCalls(
  sql: Sql,
  { keepMs, rowsMax }: { keepMs: number; rowsMax: number },
): Promise<number> {
  const buried = await sql`
    with gone as (
      delete from outbox where (organization_id, id) in (
        select organization_id, id from outbox
        where ready and created_at < now() - ${keepMs} * interval '1 millisecond'
        order by created_at limit ${rowsMax} for update skip locked)
      returning organization_id, id, kind, target, payload, created_at, attempt
    )
    ${toDeadLetters(sql, { error: 'was owed for too long', attempts: sql`attempt` })} returning 1`
  return buried.length
}

/** What is `gone` becomes dead letters, with ids of their own: a call's may be that of a run, which can have one, too. */
function toDeadLetters(sql: Sql, { error, attempts }: { error: string; attempts: ReturnType<Sql> }) {
  return sql`
    insert into dead_letters (organization_id, id, queue, payload, error, attempts)
    select organization_id, gen_random_uuid(), kind,
      jsonb_build_object('id', id, 'target', target, 'payload', payload, 'owedSince', created_at), ${error}, ${attempts}
    from gone`
}

function stillClaimed(sql: Sql, { organizationId, id, attempt }: Claim) {
  return sql`organization_id = ${organizationId} and id = ${id} and attempt = ${attempt}`
}

/** Forgets all calls that an organization owes, when it is removed. */
export async function removeOwedCalls(tx: Sql, organizationId: string): Promise<void> {
  await tx`delete from outbox where organization_id = ${organizationId}`
}

/**
 * Owes a buried call once more, from what `buryCall` kept of it and under the id that it had, by which the receiver knows
 * a repetition. Part of the transaction that takes the dead letter away. Returns that id.
 */
export async function oweCallAgain(
  tx: Sql,
  { organizationId, kind, letter }: { organizationId: string; kind: string; letter: Record<string, unknown> },
): Promise<string> {
  const { id, target, payload } = letter as { id: string; target: string; payload: unknown }
  await tx`
    insert into outbox (organization_id, id, kind, target, payload)
    values (${organizationId}, ${id}, ${kind}, ${target}, ${tx.json(payload as never)}) on conflict do nothing`
  return id
}
