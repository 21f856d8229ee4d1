import { setImmediate } from 'node:timers/promises'
import { errorLine } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import type { Sql } from './driver-query.ts'
import { codeOf } from './errors.ts'
import { createFlights, type Flights } from './flights.ts'

/** At least so long between two replacements that are asked for; the old one has ended by then. */
const REPLACE_MS_MIN = 10_000
/** What runs on a pool that is ended may finish within this time. */
const DRAIN_SECONDS = 5

/** Connections of the driver, and what they have not answered yet. */
export interface Pool {
  readonly sql: Sql
  readonly flights: Flights
}

export interface ReplaceablePool {
  current(): Pool
  /** Exchanges the pool for a fresh one, unless that was done a moment ago. */
  replace(reason: string): void
  /** Lets what runs finish for 5 s, on pools that were exchanged as well. */
  end(): Promise<void>
}

/** @param onError sees the driver's own error of each of our queries that fails. */
export function trackPool(sql: Sql, onError: (error: unknown) => void = () => {}): Pool {
  return { sql, flights: createFlights(onError) }
}

/**
 * Ends a pool. What runs may finish within 5 s; what waits for a connection is failed, by the driver where it still looks at it
 * (`retire` in `socket.ts`), and by us in any case.
 */
export async function endPool({ sql, flights }: Pool): Promise<void> {
  await sql.end({ timeout: DRAIN_SECONDS })
  // What was answered last, such as a COMMIT, must reach its caller before it: that takes the driver some microtasks.
  await setImmediate()
  flights.failAll(closed('the connections were closed'))
}

/**
 * A pool, which is exchanged for a fresh one when it cannot be trusted any more; what runs on the old one may finish.
 *
 * - A connection was lost: `socket.ts` says why its slot must not be used again.
 * - After a failover connections may lead to a server that is gone (nothing answers) or that has become a read-only replica
 *   (25006), and the driver would keep them for up to an hour.
 */
export function createReplaceablePool(
  { log }: { log: Logger },
  { connect }: { connect(onLost: () => void): Sql },
): ReplaceablePool {
  let replacedAt = Number.NEGATIVE_INFINITY
  /** Ends of pools that were exchanged. */
  const endings = new Set<Promise<void>>()
  let isEnded = false
  let pool = make()

  function make(): Pool {
    const made: Pool = trackPool(
      connect(() => {
        if (made === pool && !isEnded) exchange('a connection was lost')
      }),
      onError,
    )
    return made
  }

  function exchange(reason: string) {
    log.warn({ reason }, 'database connections are replaced')
    replacedAt = performance.now()
    const old = pool
    pool = make()
    // Before places become free: whoever is let in now, with a query of the old pool, must not be taken by it any more.
    const ending = endPool(old).finally(() => endings.delete(ending))
    endings.add(ending)
    old.flights.failUnsent(closed(reason))
  }

  function replace(reason: string) {
    if (!isEnded && performance.now() - replacedAt > REPLACE_MS_MIN) exchange(reason)
  }

  function onError(error: unknown) {
    if (codeOf(error) === '25006') replace(errorLine(error))
  }

  return {
    current: () => pool,
    replace,
    async end() {
      isEnded = true
      await Promise.all([...endings, endPool(pool)])
    },
  }
}

function closed(reason: string): Error {
  return Object.assign(new Error(reason), { code: 'CONNECTION_CLOSED' })
}
