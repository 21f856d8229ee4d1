import type { Sql } from '../db/client.ts'
import type { Logger } from '../lib/logger.ts'
import { createLoop, type Loop } from '../lib/loop.ts'
import { type PublishedEvents, publishReplies } from './thread-response.ts'

/** Rows taken in one statement: enough to amortise the commit, few enough to keep its locks short. */
const ROWS_MAX = 500
/** After this long the queue is read from its very start again, so that a row behind the watermark is found too. */
const FULL_SWEEP_MS = 1_000

/** Ids are given before their rows commit: rows this far below the lowest one seen may still appear. */
const ID_SLACK = 1_000

/**
 * Publishes the replies of every replica, this one's and those of replicas that died before they could.
 *
 * Runs after each ring (this replica has inserted) and at each poll. While one statement is in flight the next rows
 * collect, so load makes batches bigger and not the delay longer. `onPublished` must not throw.
 */
export function createPublisher(
  { sql, log, onPublished }: { sql: Sql; log: Logger; onPublished(events: PublishedEvents[]): void },
  { pollMs }: { pollMs: number },
): Loop {
  let afterId = 0
  let sweptAt = 0

  return createLoop(
    { log },
    {
      name: 'publisher',
      everyMs: pollMs,
      async pass() {
        const sweeping = performance.now() - sweptAt > FULL_SWEEP_MS
        if (sweeping) {
          afterId = 0
          sweptAt = performance.now()
        }
        const { published, seen, lowestId } = await publishReplies(sql, { rowsMax: ROWS_MAX, afterId })
        if (lowestId > 0) afterId = Math.max(0, lowestId - ID_SLACK)
        if (published.length > 0) onPublished(published)
        // A full page means that more may wait; a page nobody published from is held by others, who will finish it.
        return seen === ROWS_MAX && published.length > 0
      },
    },
  )
}
