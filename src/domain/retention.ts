import type { Sql } from '../db/client.ts'
import type { Logger } from '../lib/logger.ts'
import { createLoop, type Loop } from '../lib/loop.ts'
import { pruneLog } from '../sse/event-log.ts'
import { removeStagedFiles } from './files/files.ts'

/** Turns whose events are removed in one statement, so that none of them locks for long. */
const TURNS_MAX = 200
const DEAD_LETTERS_KEEP_DAYS = 30

/** Removes what is no longer kept: events of old turns, files nobody sent, dead letters after 30 days. */
export function createRetention(
  { sql, log }: { sql: Sql; log: Logger },
  options: { everyMs: number; logKeepMs: number },
): Loop {
  return createLoop(
    { log },
    {
      name: 'retention',
      everyMs: options.everyMs,
      async pass() {
        const turns = await pruneLog(sql, { keepMs: options.logKeepMs, turnsMax: TURNS_MAX })
        await removeStagedFiles(sql)
        await sql`
          delete from dead_letters where (organization_id, id) in (
            select organization_id, id from dead_letters
            where created_at < now() - ${DEAD_LETTERS_KEEP_DAYS} * interval '1 day' limit 500)`
        return turns === TURNS_MAX
      },
    },
  )
}
