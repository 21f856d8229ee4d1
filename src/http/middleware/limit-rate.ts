import type { MiddlewareHandler } from 'hono'
import type { RateLimiter } from '../../domain/limits/rate-limiter.ts'
import { actorOf } from '../actor.ts'
import type { Env } from '../env.ts'

/**
 * Counts the request against the rates of its key and its organization, and says how they stand. Behind the
 * authentication: who has no credential is refused before anything is counted for anybody. An event stream counts once,
 * when it is opened.
 */
export function limitRate({ rates }: { rates: RateLimiter }): MiddlewareHandler<Env> {
  return async (c, next) => {
    const state = await rates.admit(actorOf(c))
    if (state) {
      c.header('ratelimit-limit', String(state.limit))
      c.header('ratelimit-remaining', String(state.remaining))
      c.header('ratelimit-reset', String(state.resetSeconds))
    }
    await next()
  }
}
