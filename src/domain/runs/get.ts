import type { Sql } from '../../db/client.ts'
import type { RunState, RunUsage } from '../../db/tables.ts'
import { AppError } from '../../lib/errors.ts'
import { isUuid } from '../../lib/ids.ts'
import { type Actor, requireConversation } from '../accounts/actor.ts'

export interface RunView {
  runId: string
  agentId: string
  conversationId: string
  messageId: string
  status: 'queued' | 'running' | 'completed' | 'failed' | 'cancelled'
  attempt: number
  model: string | null
  result: string | null
  usage: RunUsage | null
  error: { code: string; message: string } | null
  /** Epoch milliseconds. */
  createdAt: number
  startedAt: number | null
  endedAt: number | null
  traceparent: string | null
}

interface Row {
  id: string
  conversationId: string
  messageId: string
  state: RunState
  attempt: number
  model: string | null
  resultText: string | null
  usage: RunUsage | null
  errorCode: string | null
  errorMessage: string | null
  createdAt: Date
  startedAt: Date | null
  endedAt: Date | null
  traceparent: string | null
  endSeenAt: Date | null
}

/** Status, timings and result of one run. Who has read an end here need not be shown it again by a fresh stream. */
export async function getRun(sql: Sql, args: { actor: Actor; runId: string }): Promise<RunView> {
  if (!isUuid(args.runId)) throw new AppError('not_found', 'No such run')
  const [row] = await sql<Row[]>`
    select id, conversation_id as "conversationId", message_id as "messageId", state, attempt, model,
      result_text as "resultText", usage, error_code as "errorCode", error_message as "errorMessage",
      created_at as "createdAt", started_at as "startedAt", ended_at as "endedAt", traceparent, end_seen_at as "endSeenAt"
    from runs where organization_id = ${args.actor.organizationId} and id = ${args.runId}`
  if (!row) throw new AppError('not_found', 'No such run')
  requireConversation(args.actor, row.conversationId)
  if (row.endedAt !== null && row.endSeenAt === null) await markEndSeen(sql, args)
  return {
    runId: row.id,
    agentId: row.conversationId,
    conversationId: row.conversationId,
    messageId: row.messageId,
    status: publicStatus(row.state),
    attempt: row.attempt,
    model: row.model,
    result: row.resultText,
    usage: row.usage,
    error: row.errorCode === null ? null : { code: row.errorCode, message: row.errorMessage ?? '' },
    createdAt: row.createdAt.getTime(),
    startedAt: row.startedAt?.getTime() ?? null,
    endedAt: row.endedAt?.getTime() ?? null,
    traceparent: row.traceparent,
  }
}

async function markEndSeen(sql: Sql, { actor, runId }: { actor: Actor; runId: string }) {
  await sql`
    update runs set end_seen_at = now()
    where organization_id = ${actor.organizationId} and id = ${runId} and end_seen_at is null`
}

/** Which of the inner states a client needs to tell apart. */
export function publicStatus(state: RunState): RunView['status'] {
  if (state === 'ready' || state === 'delayed' || state === 'queued') return 'queued'
  return state === 'absorbed' ? 'running' : state
}
