import { backoffMs } from '../lib/backoff.ts'
import { sleep } from '../lib/sleep.ts'
import { isAway } from './errors.ts'

/** Soon enough for a database that starts together with us; an operator who reads the log is told once in a while. */
const AGAIN = { baseMs: 250, maxMs: 5_000 }

/**
 * Does `work` as soon as the database is there: programs are started in any order. What is wrong for good, such as a
 * password or a name, rejects at once; so does a database that is away, `forMs` after the first try.
 *
 * @param onAway is told, at each try in vain, the sentence on what is wrong.
 */
export async function whenDatabaseIsThere<T>(
  work: () => Promise<T>,
  { forMs, onAway }: { forMs: number; onAway(sentence: string): void | Promise<void> },
): Promise<T> {
  const until = performance.now() + forMs
  for (let tries = 1; ; tries++) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof Error) || !isAway(error) || performance.now() >= until) throw error
      await onAway(error.message)
      await sleep(backoffMs(tries, AGAIN))
    }
  }
}
