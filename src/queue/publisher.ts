import type { Sql } from '../db/client.ts'
import { backoffMs } from '../lib/backoff.ts'
import type { Logger } from '../lib/logger.ts'
import { createLoop, type Loop } from '../lib/loop.ts'
import type { Tracer } from '../telemetry/tracer.ts'
import { type PublishedEvents, publishReplies } from './thread-response.ts'
import { raiseWatermark, START } from './watermark.ts'

/** Rows taken in one statement: enough to amortise the commit, few enough to keep its locks short. */
const ROWS_MAX = 500
/** After this long the watermark starts over: a database that was restored or failed over may give lower ids again. */
const FULL_SWEEP_MS = 1_000
/** Replies whose conversation somebody held are looked at again after this long: a new message or stream holds it for moments. */
const LEFT_MS = 20

/**
 * Publishes the replies of every replica, this one's and those of replicas that died before they could.
 *
 * Runs after each ring (this replica has inserted) and at each poll. While one statement is in flight the next rows
 * collect, so load makes batches bigger and not the delay longer. `onPublished` must not throw.
 */
export function createPublisher(
  {
    sql,
    log,
    tracer,
    onPublished,
  }: { sql: Sql; log: Logger; tracer?: Tracer; onPublished(events: PublishedEvents[]): void },
  { pollMs }: { pollMs: number },
): Loop {
  let watermark = START
  let sweptAt = 0
  /** Passes in a row that left something and published nothing. */
  let blocked = 0

  return createLoop(
    { log },
    {
      name: 'publisher',
      everyMs: () => (blocked > 0 ? backoffMs(blocked, { baseMs: LEFT_MS, maxMs: pollMs }) : pollMs),
      async pass() {
        if (performance.now() - sweptAt > FULL_SWEEP_MS) {
          watermark = START
          sweptAt = performance.now()
        }
        const startedAt = Date.now()
        const pass = await publishReplies(sql, { rowsMax: ROWS_MAX, afterId: watermark.afterId })
        watermark = raiseWatermark(watermark, pass)
        if (pass.left === 0) blocked = 0
        else blocked = pass.published.length > 0 ? 1 : blocked + 1
        if (pass.published.length > 0) onPublished(pass.published)
        if (tracer?.enabled) recordPublished(tracer, pass.published, startedAt)
        // A full page means that more may wait; a page nobody published from is held by others, who will finish it.
        return pass.seen === ROWS_MAX && pass.published.length > 0
      },
    },
  )
}

/** Of each attempt the first words alone: a span for every piece of every answer would say nothing more. */
function recordPublished(tracer: Tracer, published: PublishedEvents[], startedAt: number) {
  for (const { traceparent, organizationId, conversationId, firstSeq, lastSeq } of published) {
    if (!traceparent) continue
    const attributes = {
      'messaging.operation.type': 'process',
      'messaging.destination.name': 'thread_response',
      'lobu.organization.id': organizationId,
      'lobu.conversation.id': conversationId,
      'lobu.events': lastSeq - firstSeq + 1,
    }
    tracer.start('publish', { parent: traceparent, kind: 'consumer', attributes, startedAt }).end()
  }
}
