import type { Sql } from '../../db/client.ts'
import { lazyCommit } from '../../db/lazy-commit.ts'
import type { Logger } from '../../lib/logger.ts'
import { createLoop, type Loop } from '../../lib/loop.ts'

/** The end of a turn, by a number that lies within the turn's own events. */
export interface SeenEnd {
  organizationId: string
  conversationId: string
  seq: number
}

/** Ends noted in one statement. */
const PAGE = 500

/** Notes that clients have received these ends. What is noted already stays. */
export async function markEndsSeen(sql: Sql, ends: SeenEnd[]): Promise<void> {
  await sql`
    update runs r set end_seen_at = now()
    from ${lazyCommit(sql)}, unnest(${ends.map((e) => e.organizationId)}::text[], ${ends.map((e) => e.conversationId)}::text[],
      ${ends.map((e) => e.seq)}::bigint[]) as x (organization_id, conversation_id, seq)
    where r.organization_id = x.organization_id and r.conversation_id = x.conversation_id
      and r.start_seq < x.seq and r.end_seq >= x.seq and r.end_seen_at is null`
}

export interface SeenMarker extends Loop {
  note(end: SeenEnd): void
}

/** Collects the ends that streams deliver and writes them together, off the streams' path. */
export function createSeenMarker({ sql, log }: { sql: Sql; log: Logger }): SeenMarker {
  let waiting: SeenEnd[] = []
  const loop = createLoop(
    { log },
    {
      name: 'seen',
      everyMs: 5_000,
      async pass() {
        const page = waiting.slice(0, PAGE)
        if (page.length === 0) return false
        await markEndsSeen(sql, page)
        waiting = waiting.slice(page.length)
        return waiting.length > 0
      },
    },
  )
  return {
    ...loop,
    note(end) {
      // Bounded: what is dropped here costs at most one repeated answer to a client that connects afresh.
      if (waiting.length >= 10_000) return
      waiting.push(end)
      loop.ring()
    },
  }
}
