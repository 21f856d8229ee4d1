import type { MiddlewareHandler } from 'hono'
import { AppError } from '../../lib/errors.ts'
import type { Env } from '../env.ts'

/** Here a body is read before anybody has proved who they are. */
const OPEN_PATH = /^\/(?!api\/)|^\/api\/auth\//
/** Streams have a bound of their own, and clients that reconnect all at once are no load. */
const STREAM_PATH = /\/events$/

/**
 * Bounds the requests that this replica works on at once: what is behind them, bodies and waits for the database, has room
 * for so many. More are refused before anything is done for them. Strangers, who can be slow for half a minute with a body
 * of theirs, are counted apart: they must not use up the room of those who have a credential.
 */
export function limitLoad({ requestsMax }: { requestsMax: number }): MiddlewareHandler<Env> {
  const active = { open: 0, api: 0 }
  return async (c, next) => {
    if (STREAM_PATH.test(c.req.path)) return next()
    const kind = OPEN_PATH.test(c.req.path) ? 'open' : 'api'
    if (active[kind] >= requestsMax) throw new AppError('saturated', 'This replica works on as many requests as it may')
    active[kind]++
    try {
      await next()
    } finally {
      active[kind]--
    }
  }
}
