import { backoffMs } from './backoff.ts'
import { errorLine } from './errors.ts'
import type { Logger } from './logger.ts'
import { sleep } from './sleep.ts'

export interface RetryOptions {
  /** How often it is asked at most, the first time included. */
  tries: number
  /** Wait after the first failure, and the longest wait, as `backoffMs` takes them. */
  baseMs: number
  maxMs: number
  /** Asked of each error, before the wait: false gives up. Every error is tried again without it. */
  when?(error: unknown): boolean
  /** Gives up as soon as it aborts, also in the middle of a wait. */
  signal?: AbortSignal
  log: Logger
  /** What waits for what: a warning for each failure that is tried again. */
  waiting: string
}

/** Asks until there is an answer, with an exponential wait in between; rejects with the last error when it gives up. */
export async function retry<T>(ask: () => Promise<T>, options: RetryOptions): Promise<T> {
  const { tries: most, when = () => true, signal, log } = options
  for (let tries = 1; ; tries++) {
    try {
      return await ask()
    } catch (error) {
      if (tries >= most || signal?.aborted || !when(error)) throw error
      log.warn({ tries, err: errorLine(error) }, options.waiting)
      await sleep(backoffMs(tries, options), signal)
      if (signal?.aborted) throw error
    }
  }
}
