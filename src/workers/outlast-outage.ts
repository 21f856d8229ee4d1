import { AppError } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import { retry } from '../lib/retry.ts'

/** About ten seconds. A turn whose very question takes the database down must come to an end with its tries. */
const AGAIN = { tries: 8, baseMs: 200, maxMs: 3_000 }

export function isDatabaseAway(error: unknown): boolean {
  return error instanceof AppError && error.code === 'database_unavailable'
}

/**
 * Asks again while the database is away, which says nothing of the turn and so must not cost it one of its tries.
 * Gives up, with the last error, after 8 tries (about 10 s) or as soon as `signal` aborts, because the lease is lost.
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
