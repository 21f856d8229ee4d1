import type { MiddlewareHandler } from 'hono'
import { AppError } from '../../lib/errors.ts'
import type { Env } from '../env.ts'

/** Streams have a bound of their own, and clients that reconnect all at once are no load. */
const STREAM_PATH = /\/events$/

/**
 * Bounds the requests that this replica works on at once: what is behind them, bodies and waits for the database, has room
 * for so many. More are refused before anything is done for them.
 */
export function limitLoad({ requestsMax }: { requestsMax: number }): MiddlewareHandler<Env> {
  let active = 0
  return async (c, next) => {
    if (STREAM_PATH.test(c.req.path)) return next()
    if (active >= requestsMax) throw new AppError('saturated', 'This replica works on as many requests as it may')
    active++
    try {
      await next()
    } finally {
      active--
    }
  }
}
