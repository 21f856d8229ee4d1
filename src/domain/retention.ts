import type { Sql } from '../db/client.ts'
import { inTransaction } from '../db/transaction.ts'
import type { Logger } from '../lib/logger.ts'
import { createLoop, type Loop } from '../lib/loop.ts'
import { buryOldCalls } from '../queue/outbox.ts'
import { removeOrphanedReplies } from '../queue/thread-response.ts'
import { pruneLog } from '../sse/event-log.ts'
import { type Metrics, NO_METRICS } from '../telemetry/metrics.ts'
import { pruneAudit } from './audit/prune.ts'
import { removeIdleConversations } from './conversations/remove-idle.ts'
import { removeOldDeadLetters } from './dead-letters/remove.ts'
import { removeStagedFiles } from './files/files.ts'
import { removeEndedKeys } from './keys/remove-ended.ts'
import { removeIdleBuckets } from './limits/bucket.ts'
import { removeClosedInvitations } from './organizations/remove-invitations.ts'
import { removeExpiredGrants } from './sign-in/oauth-tokens.ts'
import { removeExpiredSignIns } from './sign-in/remove-expired.ts'
import { removeOldUsage } from './usage/remove-old.ts'

/** How long each kind is kept. */
export interface RetentionTimes {
  logKeepMs: number
  deadLettersKeepMs: number
  webhooksKeepMs: number
  /** Null: for ever. */
  conversationsKeepMs: number | null
  auditKeepDays: number
  usageKeepDays: number
  signInKeepMs: number
  invitationsKeepMs: number
  keysKeepMs: number
}

/** One kind of row. `remove` takes away what one batch may, and says whether there may be more. */
interface Kind {
  name: string
  /** How often it is looked at; 60 s unless given. */
  everyMs?: number
  remove(tx: Sql, signal: AbortSignal): Promise<boolean>
}

/** What is removed in one batch at most, so that none of them locks for long. A file may be 50 MB. */
const ROWS_MAX = 500
const TURNS_MAX = 200
const FILES_MAX = 20
const CONVERSATIONS_MAX = 5
/** A batch that takes longer gives up, and is tried again: nobody waits for what is removed, so it must not be waited for. */
const STATEMENT_TIMEOUT = '5s'
const LOCK_TIMEOUT = '1s'
const EVERY_MS = 60_000
const LOG_EVERY_MS = 15_000

/**
 * Removes what is no longer kept, one background loop for each kind, so that one that fails leaves the others alone and shows
 * by its age. Every replica does this, in small batches; what another one removes at the moment is skipped. Runs and
 * messages, which are the record of idempotency too, go with their conversation and never before it.
 */
export function createRetention(
  { sql, log, metrics = NO_METRICS }: { sql: Sql; log: Logger; metrics?: Metrics },
  { everyMs, ...times }: RetentionTimes & { everyMs?: number },
): Loop[] {
  return kindsOf({ log, metrics }, times).map((kind) =>
    createLoop(
      { log },
      {
        name: `retention: ${kind.name}`,
        everyMs: everyMs ?? kind.everyMs ?? EVERY_MS,
        pass: (signal) => inTransaction(sql, (tx) => removeBatch(tx, kind, signal)),
      },
    ),
  )
}

async function removeBatch(tx: Sql, kind: Kind, signal: AbortSignal): Promise<boolean> {
  await tx`
    select set_config('statement_timeout', ${STATEMENT_TIMEOUT}, true), set_config('lock_timeout', ${LOCK_TIMEOUT}, true)`
  return kind.remove(tx, signal)
}

function kindsOf({ log, metrics }: { log: Logger; metrics: Metrics }, times: RetentionTimes): Kind[] {
  const rows = (name: string, remove: (tx: Sql, bound: { rowsMax: number }) => Promise<number>): Kind => ({
    name,
    remove: async (tx) => (await remove(tx, { rowsMax: ROWS_MAX })) >= ROWS_MAX,
  })
  const { conversationsKeepMs, signInKeepMs, keysKeepMs, invitationsKeepMs } = times
  const idle = conversationsKeepMs === null ? [] : [idleConversations(conversationsKeepMs)]
  return [
    {
      ...{ name: 'events', everyMs: LOG_EVERY_MS },
      remove: async (tx) => (await pruneLog(tx, { keepMs: times.logKeepMs, turnsMax: TURNS_MAX })) === TURNS_MAX,
    },
    ...idle,
    { name: 'files', remove: async (tx) => (await removeStagedFiles(tx, { filesMax: FILES_MAX })) === FILES_MAX },
    rows('replies', removeOrphanedReplies),
    rows('webhooks', async (tx, bound) => {
      const buried = await buryOldCalls(tx, { keepMs: times.webhooksKeepMs, ...bound })
      if (buried > 0) log.warn({ count: buried }, 'webhook calls were owed for too long, and are dead letters now')
      metrics.count('lobu_dead_letters_total', { kind: 'webhook' }, buried)
      return buried
    }),
    rows('dead letters', (tx, bound) => removeOldDeadLetters(tx, { keepMs: times.deadLettersKeepMs, ...bound })),
    rows('audit', (tx, bound) => pruneAudit(tx, { keepDays: times.auditKeepDays, ...bound })),
    rows('usage', (tx, bound) => removeOldUsage(tx, { keepDays: times.usageKeepDays, ...bound })),
    rows('sign-in', (tx, bound) => removeExpiredSignIns(tx, { keepMs: signInKeepMs, ...bound })),
    rows('grants', (tx, bound) => removeExpiredGrants(tx, { keepMs: signInKeepMs, ...bound })),
    rows('invitations', (tx, bound) => removeClosedInvitations(tx, { keepMs: invitationsKeepMs, ...bound })),
    rows('keys', (tx, bound) => removeEndedKeys(tx, { keepMs: keysKeepMs, ...bound })),
    rows('rates', removeIdleBuckets),
  ]
}

/** Goes through all conversations by their key, since no index knows which are idle: it would cost every message. */
function idleConversations(keepMs: number): Kind {
  let after = { organizationId: '', id: '' }
  return {
    name: 'conversations',
    async remove(tx) {
      const pass = await removeIdleConversations(tx, {
        ...{ keepMs, after, conversationsMax: CONVERSATIONS_MAX, filesMax: FILES_MAX, rowsMax: ROWS_MAX },
      })
      after = pass.next ?? { organizationId: '', id: '' }
      return pass.more
    },
  }
}
