import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { isUuid } from '../../lib/ids.ts'
import type { PublishedEvents } from '../../queue/thread-response.ts'
import type { Signals } from '../signals.ts'
import { type EndedRun, endRunIn } from './end.ts'

interface ConversationKey {
  organizationId: string
  conversationId: string
}

export interface Cancelled {
  ended: EndedRun[]
  published: PublishedEvents[]
}

/**
 * Ends every unfinished run of a conversation as cancelled, the waiting ones first so that none of them starts.
 * Part of the caller's transaction; the caller sends the signals after its commit.
 */
export async function cancelOpenRuns(tx: Sql, args: ConversationKey): Promise<Cancelled> {
  await lockConversation(tx, args)
  const open = await tx<{ id: string }[]>`
    select id from runs where organization_id = ${args.organizationId} and conversation_id = ${args.conversationId}
      and state in ('queued', 'ready', 'delayed', 'running')
    order by turn desc`
  const all: Cancelled = { ended: [], published: [] }
  for (const { id } of open) {
    const { ended, published } = await endRunIn(tx, { ...args, id, fence: null, status: 'cancelled' })
    all.ended.push(...ended)
    all.published.push(...published)
  }
  return all
}

/**
 * Cancels one run, or all of a conversation: durable at once, on any replica, started or not (I4). When this returns
 * the end is committed, so nothing of the run can be published any more; its worker is stopped by the signal, or at
 * the latest when its replica next renews the lease. A run that had ended before stays as it ended.
 *
 * @throws AppError 'not_found' for a run or message that this conversation does not have.
 */
export async function cancelRuns(
  deps: { sql: Sql; signals: Signals },
  args: ConversationKey & { runId?: string | undefined; messageId?: string | undefined },
): Promise<EndedRun[]> {
  const named = args.runId !== undefined || args.messageId !== undefined
  const cancelled = await inTransaction(deps.sql, async (tx): Promise<Cancelled & { nextReady: boolean }> => {
    if (!named) return { ...(await cancelOpenRuns(tx, args)), nextReady: false }
    // The lock comes before the look: a run that is found may otherwise be taken into the running turn meanwhile.
    await lockConversation(tx, args)
    return endRunIn(tx, { ...args, id: await findRun(tx, args), fence: null, status: 'cancelled' })
  })
  for (const run of cancelled.ended) deps.signals.runEnded(run.id)
  if (cancelled.published.length > 0) deps.signals.published(cancelled.published)
  if (cancelled.nextReady) deps.signals.runReady()
  return cancelled.ended
}

async function lockConversation(tx: Sql, key: ConversationKey) {
  await tx`
    select 1 from conversations where organization_id = ${key.organizationId} and id = ${key.conversationId}
    for no key update`
}

/** The run to end: the named one, or the one that took it in. */
async function findRun(
  sql: Sql,
  args: ConversationKey & { runId?: string | undefined; messageId?: string | undefined },
): Promise<string> {
  const named = args.runId === undefined ? await findRunOfMessage(sql, args) : args.runId
  const rows = !isUuid(named)
    ? []
    : await sql<{ id: string }[]>`
        select coalesce(absorbed_by, id) as id from runs
        where organization_id = ${args.organizationId} and id = ${named} and conversation_id = ${args.conversationId}`
  if (!rows[0]) throw new AppError('not_found', 'No such run in this conversation')
  return rows[0].id
}

async function findRunOfMessage(sql: Sql, args: ConversationKey & { messageId?: string | undefined }): Promise<string> {
  const [row] = await sql<{ runId: string }[]>`
    select run_id as "runId" from messages
    where organization_id = ${args.organizationId} and conversation_id = ${args.conversationId}
      and id = ${args.messageId ?? ''} and role = 'user'`
  return row?.runId ?? ''
}
