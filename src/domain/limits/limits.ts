import { LRUCache } from 'lru-cache'
import type { Sql } from '../../db/client.ts'

/** What an organization may use. Null: as much as there is. */
export interface Limits {
  requestsPerMinute: number | null
  keyRequestsPerMinute: number | null
  /** Turns that run at once; `ORG_RUNS_MAX` where the organization has none of its own. */
  runsMax: number | null
  /** Input and output tokens in a calendar month of UTC. */
  tokensPerMonth: number | null
  /** Millionths of a US dollar. */
  costMicrosPerMonth: number | null
}

/** What the settings say for organizations that have no limits of their own, and the most that they may give themselves. */
export type DefaultLimits = Pick<Limits, 'requestsPerMinute' | 'keyRequestsPerMinute' | 'runsMax'>

export interface LimitBook {
  /** The limits in force for an organization, as this replica knows them: at most `CACHE_MS` old. */
  of(organizationId: string): Promise<Limits>
  /** Limits have changed: nothing that was known counts any more. */
  forget(): void
}

/** Every change is rung to all replicas, which then forget; this is the bound for one that missed the ring. */
const CACHE_MS = 2_000
const CACHE_MAX = 10_000

export function createLimitBook({ sql }: { sql: Sql }, defaults: DefaultLimits): LimitBook {
  // Promises, so that a burst of requests asks once.
  const known = new LRUCache<string, Promise<Limits>>({ max: CACHE_MAX, ttl: CACHE_MS })

  return {
    of(organizationId) {
      const cached = known.get(organizationId)
      if (cached) return cached
      const reading = readOwnLimits(sql, organizationId).then((own) => limitsInForce(own, defaults))
      known.set(organizationId, reading)
      // A failure is this caller's alone.
      reading.catch(() => known.get(organizationId) === reading && known.delete(organizationId))
      return reading
    },
    forget: () => known.clear(),
  }
}

export const NO_LIMITS: Limits = {
  requestsPerMinute: null,
  keyRequestsPerMinute: null,
  runsMax: null,
  tokensPerMonth: null,
  costMicrosPerMonth: null,
}

/** What an organization has set, or an operator for it. */
export async function readOwnLimits(sql: Sql, organizationId: string): Promise<Limits> {
  const [row] = await sql<Limits[]>`
    select requests_per_minute as "requestsPerMinute", key_requests_per_minute as "keyRequestsPerMinute",
      runs_max as "runsMax", tokens_per_month as "tokensPerMonth", cost_micros_per_month as "costMicrosPerMonth"
    from organization_limits where organization_id = ${organizationId}`
  return row ?? NO_LIMITS
}

/** A rate of 0 is none, in the settings and in the table. */
export function limitsInForce(own: Limits, defaults: DefaultLimits): Limits {
  return {
    requestsPerMinute: (own.requestsPerMinute ?? defaults.requestsPerMinute) || null,
    keyRequestsPerMinute: (own.keyRequestsPerMinute ?? defaults.keyRequestsPerMinute) || null,
    runsMax: own.runsMax ?? defaults.runsMax,
    tokensPerMonth: own.tokensPerMonth,
    costMicrosPerMonth: own.costMicrosPerMonth,
  }
}
