import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { newRunId } from '../../lib/ids.ts'
import { type ClaimedRun, hasOwnCap } from '../../queue/runs.ts'
import { cancelOpenRuns } from '../runs/cancel.ts'
import type { Signals } from '../signals.ts'

/** What to do with a message that arrives while a run of its conversation is unfinished. */
export type OnBusy = 'enqueue' | 'steer' | 'interrupt' | 'reject'

export interface NewMessage {
  organizationId: string
  conversationId: string
  /** Idempotency key for the life of the conversation. */
  messageId: string
  /** A `ModelMessage` of the role user. */
  content: Record<string, unknown>
  text: string
  /** Hash of all that makes the request what it is. */
  bodyHash: string
  fileIds: string[]
  onBusy: OnBusy
  webhookUrl: string | null
  traceparent: string | null
}

export interface Accepted {
  messageId: string
  runId: string
  traceparent: string | null
  /** True when this very message was accepted before and nothing new was started. */
  duplicate: boolean
  /** Set when the run was handed to this replica in the same commit. */
  claimed: ClaimedRun | null
}

export interface AcceptOptions {
  replica: string
  leaseMs: number
  depthMax: number
  /** Runs that an organization without a cap of its own may have running at once; one above it waits as `ready`. */
  organizationMax: number
  /** How long another replica's worker of this conversation is thought to be still there. */
  workerIdleMs: number
  /** How long that replica alone may claim the run. */
  preferredMs: number
  /** True when this replica could start the run now; then it is inserted as claimed by it (one commit less). */
  claimHere: boolean
  /** True when the worker of the conversation lives here. */
  workerHere: boolean
}

type Inserted = ClaimedRun & { state: string; preferredReplica: string | null }

/**
 * Accepts a message and queues its run in one statement: when this returns, both are committed (I1).
 *
 * The same id again gives the first answer and starts nothing, however many arrive at once and wherever: they wait for
 * each other on the conversation's row, and the messages' primary key lets one through.
 *
 * @throws AppError 'not_found', 'conversation_busy' (onBusy reject), 'queue_full', 'idempotency_mismatch'.
 */
export async function acceptMessage(
  deps: { sql: Sql; signals: Signals },
  message: NewMessage,
  options: AcceptOptions,
): Promise<Accepted> {
  const { inserted, exists, openRuns } =
    message.onBusy === 'interrupt'
      ? await interruptAndInsert(deps, message, options)
      : await insert(deps.sql, message, options)
  if (inserted) {
    const claimed = inserted.state === 'running' ? inserted : null
    if (!claimed && inserted.state !== 'queued') deps.signals.runReady(inserted.preferredReplica ?? undefined)
    return {
      messageId: message.messageId,
      runId: inserted.id,
      traceparent: message.traceparent,
      duplicate: false,
      claimed,
    }
  }
  if (!exists) throw new AppError('not_found', 'No such conversation')
  const earlier = await findEarlier(deps.sql, message)
  if (earlier) return earlier
  if (message.onBusy === 'reject' && openRuns > 0) {
    throw new AppError('conversation_busy', 'A message of this conversation is still being answered')
  }
  throw new AppError('queue_full', 'Too many messages wait in this conversation', { retryAfterSeconds: 5 })
}

interface InsertResult {
  inserted: Inserted | null
  exists: boolean
  openRuns: number
}

/**
 * The hot statement. The conversation's row lock comes first, so `open_runs` and `last_turn` are current even after a
 * wait, and the run knows whether it is the head of its conversation without looking at others. `offset 0` has the state
 * worked out once: without it Postgres counts the running runs again for each column that depends on it.
 */
async function insert(sql: Sql, message: NewMessage, options: AcceptOptions): Promise<InsertResult> {
  const runId = newRunId()
  const [row] = await sql<(Inserted & { exists: boolean; openRuns: number })[]>`
    with c as materialized (
      select organization_id, id, last_turn, open_runs, worker_replica, last_activity_at from conversations
      where organization_id = ${message.organizationId} and id = ${message.conversationId} and status = 'active'
      for no key update
    ), allowed as materialized (
      select *, not ${options.workerHere} and worker_replica <> ${options.replica}
        and last_activity_at > now() - ${options.workerIdleMs} * interval '1 millisecond'
        and exists (select 1 from replicas r where r.id = worker_replica and r.lease_until > now()) as elsewhere
      from c where open_runs < ${options.depthMax} and (${message.onBusy} <> 'reject' or open_runs = 0)
    ), m as (
      insert into messages (organization_id, conversation_id, id, run_id, turn, position, role, content, text, body_hash)
      select organization_id, id, ${message.messageId}, ${runId}, last_turn + 1, 0, 'user',
        ${sql.json(message.content as never)}, ${message.text}, ${message.bodyHash}
      from allowed
      on conflict (organization_id, conversation_id, id) do nothing
      returning turn
    ), u as (
      update conversations v set last_turn = m.turn, open_runs = v.open_runs + 1, last_activity_at = now()
      from m where v.organization_id = ${message.organizationId} and v.id = ${message.conversationId}
    ), f as (
      update files set message_id = ${message.messageId} from m
      where organization_id = ${message.organizationId} and conversation_id = ${message.conversationId}
        and id = any(${message.fileIds}::text[])
    ), r as (
      insert into runs (organization_id, id, conversation_id, turn, message_id, steer, webhook_url, traceparent,
        state, due_at, preferred_replica, replica, lease_until, fence, attempt, started_at)
      select a.organization_id, ${runId}, a.id, m.turn, ${message.messageId}, ${message.onBusy === 'steer'},
        ${message.webhookUrl}, ${message.traceparent}, s.state,
        case when s.state = 'delayed' then now() + ${options.preferredMs} * interval '1 millisecond' end,
        case when s.state = 'delayed' then a.worker_replica end,
        case when s.state = 'running' then ${options.replica} end,
        case when s.state = 'running' then now() + ${options.leaseMs} * interval '1 millisecond' end,
        case when s.state = 'running' then 1 else 0 end, case when s.state = 'running' then 1 else 0 end,
        case when s.state = 'running' then now() end
      from allowed a cross join m cross join lateral (
        select case when a.open_runs > 0 then 'queued' when a.elsewhere then 'delayed'
          when ${options.claimHere} and not ${hasOwnCap(sql, sql`a.organization_id`)} and (
            select count(*) from runs o where o.state = 'running' and o.organization_id = a.organization_id
          ) < ${options.organizationMax} then 'running'
          else 'ready' end as state offset 0) s
      returning *
    )
    select true as exists, c.open_runs as "openRuns", r.organization_id as "organizationId", r.id,
      r.conversation_id as "conversationId", r.turn, r.message_id as "messageId", r.attempt, r.fence, r.traceparent,
      r.state, r.preferred_replica as "preferredReplica"
    from c left join r on true`
  if (!row) return { inserted: null, exists: false, openRuns: 0 }
  return { inserted: row.id === null ? null : row, exists: true, openRuns: row.openRuns }
}

/**
 * Ends everything unfinished as cancelled and inserts the message, in one transaction. A message that was accepted
 * before is looked for under the lock: its own repetition must not cancel it.
 */
async function interruptAndInsert(
  deps: { sql: Sql; signals: Signals },
  message: NewMessage,
  options: AcceptOptions,
): Promise<InsertResult> {
  const { organizationId, conversationId } = message
  const { cancelled, result } = await inTransaction(deps.sql, async (tx) => {
    await tx`
      select 1 from conversations where organization_id = ${organizationId} and id = ${conversationId}
      for no key update`
    if (await findEarlier(tx, message)) {
      return { cancelled: null, result: { inserted: null, exists: true, openRuns: 0 } }
    }
    const cancelled = await cancelOpenRuns(tx, { organizationId, conversationId })
    return { cancelled, result: await insert(tx, message, options) }
  })
  for (const run of cancelled?.ended ?? []) deps.signals.runEnded(run.id)
  if (cancelled && cancelled.published.length > 0) deps.signals.published(cancelled.published)
  return result
}

/** The answer that this message id got when it was first accepted. @throws AppError 'idempotency_mismatch' */
export async function findEarlier(
  sql: Sql,
  message: Pick<NewMessage, 'organizationId' | 'conversationId' | 'messageId' | 'bodyHash'>,
): Promise<Accepted | null> {
  const [row] = await sql<{ bodyHash: string | null; runId: string; traceparent: string | null }[]>`
    select m.body_hash as "bodyHash", m.run_id as "runId", r.traceparent
    from messages m join runs r on r.organization_id = m.organization_id and r.id = m.run_id
    where m.organization_id = ${message.organizationId} and m.conversation_id = ${message.conversationId}
      and m.id = ${message.messageId}`
  if (!row) return null
  if (row.bodyHash !== message.bodyHash) {
    throw new AppError('idempotency_mismatch', 'This message id was used before with another content')
  }
  return {
    messageId: message.messageId,
    runId: row.runId,
    traceparent: row.traceparent,
    duplicate: true,
    claimed: null,
  }
}
