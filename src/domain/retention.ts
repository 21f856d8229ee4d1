import type { Sql } from '../db/client.ts'
import type { Logger } from '../lib/logger.ts'
import { createLoop, type Loop } from '../lib/loop.ts'
import { removeOrphanedReplies } from '../queue/thread-response.ts'
import { pruneLog } from '../sse/event-log.ts'
import { pruneAudit } from './audit/prune.ts'
import { removeOldDeadLetters } from './dead-letters/remove.ts'
import { removeStagedFiles } from './files/files.ts'
import { removeIdleBuckets } from './limits/bucket.ts'
import { removeExpiredGrants } from './sign-in/oauth-tokens.ts'

/** What is removed in one statement at most, so that none of them locks for long. A file may be 50 MB. */
const TURNS_MAX = 200
const FILES_MAX = 20
const DEAD_LETTERS_MAX = 500
const ORPHANS_MAX = 500
const AUDIT_MAX = 500
const BUCKETS_MAX = 500
const GRANTS_MAX = 500

/**
 * Removes what is no longer kept: events of old turns, files nobody sent, dead letters that nobody wanted, replies to
 * conversations that were removed, buckets of rates that are full again, grants that have expired, and audit entries that
 * are older than their organization keeps them. Every replica does this; what another one removes at the moment is
 * skipped. They are independent: one that fails does not keep the others from working. Runs and the transcript stay.
 */
export function createRetention(
  { sql, log }: { sql: Sql; log: Logger },
  options: { everyMs: number; logKeepMs: number; auditKeepDays: number; deadLettersKeepMs: number },
): Loop {
  async function pass() {
    const removals = [
      pruneLog(sql, { keepMs: options.logKeepMs, turnsMax: TURNS_MAX }).then((removed) => removed === TURNS_MAX),
      removeStagedFiles(sql, { filesMax: FILES_MAX }).then((removed) => removed === FILES_MAX),
      removeOldDeadLetters(sql, { keepMs: options.deadLettersKeepMs, rowsMax: DEAD_LETTERS_MAX }).then(
        (removed) => removed === DEAD_LETTERS_MAX,
      ),
      pruneAudit(sql, { keepDays: options.auditKeepDays, rowsMax: AUDIT_MAX }).then((removed) => removed === AUDIT_MAX),
      removeOrphanedReplies(sql, { rowsMax: ORPHANS_MAX }).then((removed) => removed === ORPHANS_MAX),
      removeIdleBuckets(sql, { rowsMax: BUCKETS_MAX }).then((removed) => removed === BUCKETS_MAX),
      removeExpiredGrants(sql, { rowsMax: GRANTS_MAX }).then((removed) => removed === GRANTS_MAX),
    ]
    const outcomes = await Promise.allSettled(removals)
    const failed = outcomes.find((outcome) => outcome.status === 'rejected')
    if (failed) throw failed.reason
    return outcomes.some((outcome) => outcome.status === 'fulfilled' && outcome.value)
  }

  return createLoop({ log }, { name: 'retention', everyMs: options.everyMs, pass })
}
