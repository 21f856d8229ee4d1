import type { Sql } from '../db/client.ts'
import { codeOf } from '../db/errors.ts'
import { inTransaction } from '../db/transaction.ts'
import { type ClaimedRun, takeOver } from './runs.ts'

/** A claim takes milliseconds; who holds the lock for longer is stuck, and the next pass tries again. */
const LOCK_WAIT = '200ms'
/** https://www.postgresql.org/docs/current/errcodes-appendix.html */
const LOCK_NOT_AVAILABLE = '55P03'

interface CappedClaim {
  replica: string
  limit: number
  leaseMs: number
}

/**
 * Claims runs of organizations that have a cap of their own (`organization_limits.runs_max`), those that were kept for
 * this replica first. The cap is exact over all replicas: who claims holds the lock of the organization's limits, and
 * counts in a statement that begins after it was given, so it sees every run that another has claimed.
 *
 * While no such organization has anything to claim this is one look into an index of those that have a cap.
 */
export async function claimCappedRuns(sql: Sql, args: CappedClaim): Promise<ClaimedRun[]> {
  const found = await sql<{ id: string }[]>`
    select l.organization_id as id from organization_limits l
    where l.runs_max is not null and (
      exists (select 1 from runs r where r.state = 'ready' and r.organization_id = l.organization_id)
      or exists (select 1 from runs r where r.state = 'delayed' and r.preferred_replica = ${args.replica}
        and r.organization_id = l.organization_id))
    order by random() limit ${args.limit}`
  if (found.length === 0) return []
  try {
    return await claimUnderLock(sql, { ...args, organizations: found.map(({ id }) => id) })
  } catch (error) {
    if (codeOf(error) === LOCK_NOT_AVAILABLE) return []
    throw error
  }
}

function claimUnderLock(sql: Sql, args: CappedClaim & { organizations: string[] }): Promise<ClaimedRun[]> {
  return inTransaction(sql, async (tx) => {
    await tx`select set_config('lock_timeout', ${LOCK_WAIT}, true)`
    // In one order, so that two who claim for several organizations cannot wait for each other.
    await tx`
      select 1 from organization_limits where organization_id = any(${args.organizations}::text[])
      order by organization_id for no key update`
    const own = await claim(tx, args, tx`q.state = 'delayed' and q.preferred_replica = ${args.replica}`)
    const limit = args.limit - own.length
    return limit === 0 ? own : [...own, ...(await claim(tx, { ...args, limit }, tx`q.state = 'ready'`))]
  })
}

/** As `claimReadyRuns`: an equal share for each organization, up to the room below its cap. */
function claim(tx: Sql, args: CappedClaim & { organizations: string[] }, which: unknown): Promise<ClaimedRun[]> {
  const each = Math.ceil(args.limit / args.organizations.length)
  return tx<ClaimedRun[]>`
    with picked as materialized (
      select r.organization_id, r.id
      from organization_limits l cross join lateral (
        select l.runs_max - count(*) as room from runs a where a.state = 'running' and a.organization_id = l.organization_id
      ) x cross join lateral (
        select q.organization_id, q.id from runs q
        where ${which as never} and q.organization_id = l.organization_id
        order by q.ordinal limit greatest(0, least(x.room, ${each})) for update skip locked
      ) r
      where l.organization_id = any(${args.organizations}::text[]) and l.runs_max is not null
      limit ${args.limit}
    )
    ${takeOver(tx, args)}`
}
