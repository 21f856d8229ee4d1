import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import type { Logger } from '../../lib/logger.ts'
import { removeOwedCalls } from '../../queue/outbox.ts'
import { removeReplies } from '../../queue/thread-response.ts'
import { removeConversationLogs } from '../../sse/event-log.ts'
import { removePresence } from '../../sse/presence.ts'
import { enforceEverywhere } from '../accounts/access.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { type Cancelled, cancelOpenRuns } from '../runs/cancel.ts'
import type { Signals } from '../signals.ts'

/** Conversations removed in one transaction: each may hold files of 50 MB and a long log. */
const PAGE = 50

/**
 * Removes an organization with everything in it. Its runs are cancelled and its streams close; when this returns none of
 * its credentials is let in anywhere. Conversations go first, a page at a time, so that no lock is held for long; who
 * writes meanwhile is caught by the last step, and a call that was cut short is simply made again.
 *
 * `sql` is the pool itself: an organization cannot remove itself.
 */
export async function deleteOrganization(
  deps: { sql: Sql; signals: Signals; log: Logger },
  { actor }: { actor: Actor },
): Promise<void> {
  requirePermission(actor, 'organization:delete')
  const { organizationId, organizationSlug: slug, userId } = actor
  while ((await removeSome(deps, organizationId)) === PAGE);
  const gone = await inTransaction(deps.sql, async (tx) => {
    const found = await tx`select 1 from organizations where id = ${organizationId} for update`
    if (found.length === 0) throw new AppError('not_found', 'No such organization')
    const removed = await removeConversations(tx, { organizationId, limit: null })
    await removeOwedCalls(tx, organizationId)
    await tx`delete from dead_letters where organization_id = ${organizationId}`
    await tx`delete from organizations where id = ${organizationId}`
    return removed
  })
  tell(deps.signals, gone)
  // Its own audit log is gone with it.
  deps.log.info({ organizationId, slug, userId, requestId: actor.origin?.requestId }, 'organization deleted')
  await enforceEverywhere(deps.signals)
}

interface Removed {
  conversations: { organizationId: string; conversationId: string }[]
  cancelled: Cancelled[]
}

async function removeSome(deps: { sql: Sql; signals: Signals }, organizationId: string): Promise<number> {
  const removed = await inTransaction(deps.sql, (tx) => removeConversations(tx, { organizationId, limit: PAGE }))
  tell(deps.signals, removed)
  return removed.conversations.length
}

/** Locks before it looks, so that a message is either accepted before and cancelled here, or refused. */
async function removeConversations(
  tx: Sql,
  { organizationId, limit }: { organizationId: string; limit: number | null },
): Promise<Removed> {
  const rows = await tx<{ conversationId: string; openRuns: number }[]>`
    select id as "conversationId", open_runs as "openRuns" from conversations
    where organization_id = ${organizationId} order by id limit ${limit} for update`
  const conversations = rows.map(({ conversationId }) => ({ organizationId, conversationId }))
  const cancelled: Cancelled[] = []
  for (const { conversationId, openRuns } of rows) {
    if (openRuns > 0) cancelled.push(await cancelOpenRuns(tx, { organizationId, conversationId }))
  }
  const ids = rows.map(({ conversationId }) => conversationId)
  await removeConversationLogs(tx, { organizationId, ids })
  await removeReplies(tx, { organizationId, ids })
  await removePresence(tx, { organizationId, ids })
  await tx`delete from conversations where organization_id = ${organizationId} and id = any(${ids}::text[])`
  return { conversations, cancelled }
}

function tell(signals: Signals, { conversations, cancelled }: Removed): void {
  for (const { ended, published } of cancelled) {
    for (const run of ended) signals.runEnded(run.id)
    if (published.length > 0) signals.published(published)
  }
  for (const key of conversations) signals.conversationEnded(key)
}
