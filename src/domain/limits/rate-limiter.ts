import { LRUCache } from 'lru-cache'
import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import type { Actor } from '../accounts/actor.ts'
import { type BucketKey, takeTokens } from './bucket.ts'
import type { LimitBook } from './limits.ts'

/** How a limit stands after a request. */
export interface RateState {
  limit: number
  /** Requests that are certainly left at this moment, as far as this replica knows. */
  remaining: number
  /** Seconds until the bucket is full again. */
  resetSeconds: number
}

export interface RateLimiter {
  /**
   * Counts a request. Returns the state of the limit that is nearest to its end, or null where there is none; then nothing
   * was asked of the database.
   * @throws AppError 'rate_limited' with the time after which another try may succeed.
   */
  admit(actor: Pick<Actor, 'organizationId' | 'kind' | 'credentialId'>): Promise<RateState | null>
}

/**
 * From this limit on a replica takes a hundredth of a minute's tokens ahead. Below it each request takes its own, and the
 * limit is exact over all replicas; above, it can be missed by that much for each replica, in both directions: what one holds
 * is there for its own requests only.
 */
const EXACT_BELOW = 200
const AHEAD_PART = 1 / 100
const AHEAD_MAX = 100
/** A replica that knows a bucket to be empty asks again after this long at the latest. */
const EMPTY_MS_MAX = 5_000
const SUBJECTS_MAX = 20_000

/** What this replica knows of one bucket. */
interface Subject {
  /** Taken from the bucket, and not used yet. */
  ahead: number
  /** Tokens in the bucket when it was last asked. */
  left: number
  /** When it has a token again, as far as is known. */
  nextAt: number
  /** Until then it is not asked. */
  emptyUntil: number
  waiting: ((admitted: boolean | Promise<boolean>) => void)[]
  flight: Promise<void> | undefined
}

/**
 * Rates of organizations and keys, counted in Postgres so that all replicas share them. Requests that come while a
 * statement is under way go together with the next, so a flood costs one statement after the other, never one each;
 * and while a bucket is known to be empty, none at all.
 */
export function createRateLimiter({ sql, limits }: { sql: Sql; limits: LimitBook }): RateLimiter {
  const subjects = new LRUCache<string, Subject>({ max: SUBJECTS_MAX })

  function subjectOf({ organizationId, subject }: BucketKey, perMinute: number): Subject {
    // The limit is part of the name: one that was changed starts with what the table says.
    const name = `${organizationId} ${subject} ${perMinute}`
    const known = subjects.get(name)
    if (known) return known
    const made = { ahead: 0, left: perMinute, nextAt: 0, emptyUntil: 0, waiting: [], flight: undefined }
    subjects.set(name, made)
    return made
  }

  async function takeForAll(key: BucketKey, one: Subject, perMinute: number) {
    const more = perMinute < EXACT_BELOW ? 0 : Math.min(AHEAD_MAX, Math.floor(perMinute * AHEAD_PART))
    while (one.waiting.length > 0) {
      const waiting = one.waiting.splice(0)
      // So no more than `more` is ever held.
      for (const answer of waiting.splice(0, one.ahead)) {
        one.ahead--
        answer(true)
      }
      if (waiting.length === 0) continue
      try {
        const { granted, left } = await takeTokens(sql, key, { want: waiting.length + more, perMinute })
        note(one, { spare: granted - waiting.length, left, perMinute })
        for (const [index, answer] of waiting.entries()) answer(index < granted)
      } catch (error) {
        for (const answer of waiting) answer(Promise.reject(error))
      }
    }
  }

  function take(key: BucketKey, one: Subject, perMinute: number): boolean | Promise<boolean> {
    if (one.ahead > 0) {
      one.ahead--
      return true
    }
    if (one.emptyUntil > performance.now()) return false
    const { promise, resolve } = Promise.withResolvers<boolean>()
    one.waiting.push(resolve)
    one.flight ??= takeForAll(key, one, perMinute).finally(() => {
      one.flight = undefined
    })
    return promise
  }

  async function admitTo(key: BucketKey, perMinute: number, who: string): Promise<RateState> {
    const one = subjectOf(key, perMinute)
    if (await take(key, one, perMinute)) return stateOf(one, perMinute)
    throw new AppError('rate_limited', `${who} has made the ${perMinute} requests that it may make in a minute`, {
      retryAfterSeconds: (one.nextAt - performance.now()) / 1000,
      details: { limit: perMinute, windowSeconds: 60 },
    })
  }

  return {
    async admit({ organizationId, kind, credentialId }) {
      const { requestsPerMinute, keyRequestsPerMinute } = await limits.of(organizationId)
      const states: RateState[] = []
      // The key comes first: what it is refused for must not be taken from everybody else.
      if (keyRequestsPerMinute !== null && kind === 'key') {
        const key = { organizationId, subject: `key:${credentialId}` }
        states.push(await admitTo(key, keyRequestsPerMinute, 'This API key'))
      }
      if (requestsPerMinute !== null) {
        states.push(await admitTo({ organizationId, subject: 'organization' }, requestsPerMinute, 'This organization'))
      }
      return states.sort((a, b) => a.remaining - b.remaining)[0] ?? null
    },
  }
}

function note(one: Subject, { spare, left, perMinute }: { spare: number; left: number; perMinute: number }) {
  one.left = left
  if (spare > 0) one.ahead += spare
  if (spare >= 0) return
  one.nextAt = performance.now() + ((1 - Math.min(left, 1)) / perMinute) * 60_000
  one.emptyUntil = Math.min(one.nextAt, performance.now() + EMPTY_MS_MAX)
}

function stateOf(one: Subject, limit: number): RateState {
  const remaining = Math.floor(one.left) + one.ahead
  return { limit, remaining, resetSeconds: Math.ceil(((limit - remaining) / limit) * 60) }
}
