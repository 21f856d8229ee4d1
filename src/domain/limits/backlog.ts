import { LRUCache } from 'lru-cache'
import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'

export interface Backlog {
  /**
   * Counts a message that is about to be accepted.
   * @throws AppError 'queue_full' when the organization has as many unfinished ones as it may.
   */
  admit(organizationId: string): Promise<void>
}

/** What this replica knows of one organization. */
interface Known {
  /** How many more there may be, and how many of them this replica may let in before it looks again. */
  left: number
  share: number
  lookedAt: number
  looking: Promise<void> | undefined
}

/** So old a count may be. */
const FRESH_MS = 5_000
/** A full organization is looked at again after this long. */
const FULL_MS = 1_000
/**
 * Of what is left a replica lets in a twentieth before it counts again: up to twenty of them cannot pass the limit
 * together, but for what comes in the very moment of a count.
 */
const SHARES = 20
const ORGANIZATIONS_MAX = 10_000

/**
 * Bounds the unfinished messages of an organization, in all its conversations and on all replicas: `QUEUE_DEPTH_MAX` alone
 * would let it fill the table through any number of conversations. The count is never part of accepting a message, whose
 * statement is the hottest there is: it is taken now and then, and the more often the less room is left.
 */
export function createBacklog({ sql }: { sql: Sql }, { max }: { max: number }): Backlog {
  const known = new LRUCache<string, Known>({ max: ORGANIZATIONS_MAX })

  async function look(organizationId: string, one: Known) {
    const lookedAt = performance.now()
    const open = await countOpenRuns(sql, organizationId, max)
    one.left = max - open
    one.share = Math.floor(one.left / SHARES)
    one.lookedAt = lookedAt
  }

  function knownOf(organizationId: string): Known {
    const one = known.get(organizationId)
    if (one) return one
    const unknown = { left: 1, share: 0, lookedAt: Number.NEGATIVE_INFINITY, looking: undefined }
    known.set(organizationId, unknown)
    return unknown
  }

  const isDue = (one: Known) => {
    const age = performance.now() - one.lookedAt
    return one.left <= 0 ? age > FULL_MS : one.share <= 0 || age > FRESH_MS
  }

  return {
    async admit(organizationId) {
      const one = knownOf(organizationId)
      if (isDue(one)) {
        one.looking ??= look(organizationId, one).finally(() => {
          one.looking = undefined
        })
        await one.looking
      }
      if (one.left <= 0) {
        const message = `This organization has ${max} unfinished messages, as many as it may`
        throw new AppError('queue_full', message, { retryAfterSeconds: 5 })
      }
      one.left--
      one.share--
    },
  }
}

/** Unfinished runs, as far as `max`: entries of `runs_open_idx`, never more of them than that. */
async function countOpenRuns(sql: Sql, organizationId: string, max: number): Promise<number> {
  const [row] = await sql<{ open: number }[]>`
    select count(*)::int as open from (
      select 1 from runs
      where organization_id = ${organizationId} and state in ('queued', 'ready', 'delayed', 'running', 'absorbed')
      limit ${max}) r`
  return row!.open
}
