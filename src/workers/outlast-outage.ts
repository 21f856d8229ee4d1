import { backoffMs } from '../lib/backoff.ts'
import { AppError, errorLine } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import { sleep } from '../lib/sleep.ts'

/** About ten seconds. A turn whose very question takes the database down must come to an end with its tries. */
const TRIES = 8

export function isDatabaseAway(error: unknown): boolean {
  return error instanceof AppError && error.code === 'database_unavailable'
}

/**
 * Asks again while the database is away, which says nothing of the turn and so must not cost it one of its tries.
 * Gives up, with the last error, after 8 tries (about 10 s) or as soon as `signal` aborts, because the lease is lost.
 */
export async function outlastOutage<T>(
  ask: () => Promise<T>,
  { log, signal }: { log: Logger; signal: AbortSignal },
): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await ask()
    } catch (error) {
      if (!isDatabaseAway(error) || tries >= TRIES || signal.aborted) throw error
      log.warn({ tries, err: errorLine(error) }, 'beginning of turn waits for the database')
      await sleep(backoffMs(tries, { baseMs: 200, maxMs: 3_000 }), signal)
      if (signal.aborted) throw error
    }
  }
}
