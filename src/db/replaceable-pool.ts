import { errorLine } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import type { Sql } from './driver-query.ts'
import { codeOf } from './errors.ts'
import { createFlights, type Flights } from './flights.ts'

/** At least so long between two replacements of the pool; the old one has ended by then. */
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
  /** Lets what runs finish for 5 s. */
  end(): Promise<void>
}

/** @param onError sees the driver's own error of each query that fails. */
export function createPool(sql: Sql, onError: (error: unknown) => void = () => {}): Pool {
  return { sql, flights: createFlights(onError) }
}

/**
 * Ends a pool. The driver (postgres 3.4.9) ends each connection behind what runs on it, and never again looks at what waits for
 * one of them; here this is failed.
 */
export async function endPool({ sql, flights }: Pool): Promise<void> {
  await sql.end({ timeout: DRAIN_SECONDS })
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
  let pool = make()

  function make(): Pool {
    const made: Pool = createPool(
      connect(() => {
        if (made === pool) exchange('a connection was lost')
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
    old.flights.failUnsent(closed(reason))
    void endPool(old)
  }

  function replace(reason: string) {
    if (performance.now() - replacedAt > REPLACE_MS_MIN) exchange(reason)
  }

  function onError(error: unknown) {
    if (codeOf(error) === '25006') replace(errorLine(error))
  }

  return { current: () => pool, replace, end: () => endPool(pool) }
}

function closed(reason: string): Error {
  return Object.assign(new Error(reason), { code: 'CONNECTION_CLOSED' })
}
