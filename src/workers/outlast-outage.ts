import { AppError } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import { retry } from '../lib/retry.ts'

/** Waits of nine seconds in all. A turn whose very question takes the database down must come to an end with its tries. */
const AGAIN = { tries: 8, baseMs: 200, maxMs: 3_000 }

export function isDatabaseAway(error: unknown): boolean {
  return error instanceof AppError && error.code === 'database_unavailable'
}

/**
 * Asks again while the database is away or has no place for it, which says nothing of the turn and so must not cost it one
 * of its tries. Gives up, with the last error, after 8 tries, between which about 9 s pass, or as soon as `signal` aborts,
 * because the turn is over or somebody else's. A longer outage costs a try, or the lease.
 */
export function outlastOutage<T>(
  ask: () => Promise<T>,
  { log, signal }: { log: Logger; signal: AbortSignal },
): Promise<T> {
  return retry(ask, {
    ...AGAIN,
    when: isDatabaseAway,
    signal,
    log,
    waiting: 'beginning of turn waits for the database',
  })
}
