import type { MiddlewareHandler } from 'hono'
import type { RateLimiter } from '../../domain/limits/rate-limiter.ts'
import type { Env } from '../env.ts'

/**
 * Counts the request against the rates of its key and its organization, and says how they stand. Behind the
 * authentication: who has no credential is refused before anything is counted for anybody. An event stream counts once,
 * when it is opened.
 */
export function limitRate({ rates }: { rates: RateLimiter }): MiddlewareHandler<Env> {
  return async (c, next) => {
    // A person who is a member of no organization has no limits of one.
    const actor = c.get('actor')
    const state = actor ? await rates.admit(actor) : null
    if (state) {
      c.header('ratelimit-limit', String(state.limit))
      c.header('ratelimit-remaining', String(state.remaining))
      c.header('ratelimit-reset', String(state.resetSeconds))
    }
    await next()
  }
}
