import type { Sql } from '../../db/client.ts'
import type { RunState } from '../../db/tables.ts'
import { AppError } from '../../lib/errors.ts'
import { formatNotice } from '../../sse/frames.ts'
import type { Actor } from '../accounts/actor.ts'
import { pageHistory } from '../messages/history.ts'
import { publicStatus } from '../runs/get.ts'
import { type Conversation, getConversation } from './get.ts'

/**
 * A turn that ended less than this ago, and whose end nobody has received, is shown to a fresh stream: a client that
 * posts and connects at the same time must not miss a quick answer. One that somebody has seen is never shown again.
 */
const UNSEEN_MS = 30_000
/** Messages in a `reset` snapshot. */
const SNAPSHOT_MESSAGES = 100

export interface Following {
  organizationId: string
  conversationId: string
  /** The stream gets every event after this number. */
  after: number
  head: number
  /** Frames to send first: `connected`, and `reset` when the asked-for position cannot be served. */
  preamble: string
}

/**
 * Decides where a stream of a conversation starts.
 *
 * @param args.lastEventId the position to resume from; without it the stream is fresh and starts with the turn that is
 *   unfinished, if there is one.
 * @throws AppError 'not_found', 'invalid_request'
 */
export async function followConversation(
  sql: Sql,
  args: { actor: Actor; conversationId: string; lastEventId?: string | undefined },
): Promise<Following> {
  const position = parsePosition(args.lastEventId)
  const conversation = await getConversation(sql, args)
  const place = {
    organizationId: conversation.organizationId,
    conversationId: conversation.id,
    head: conversation.lastSeq,
  }
  const connected = formatNotice('connected', {
    agentId: conversation.id,
    conversationId: conversation.id,
    timestamp: Date.now(),
  })
  if (position === null) return { ...place, after: await freshPosition(sql, conversation), preamble: connected }
  if (position >= conversation.prunedSeq && position <= conversation.lastSeq) {
    return { ...place, after: position, preamble: connected }
  }
  const snapshot = await takeSnapshot(sql, args, conversation)
  const reset = formatNotice('reset', { oldest: conversation.prunedSeq + 1, snapshot })
  return { ...place, after: Math.max(conversation.endSeq, conversation.prunedSeq), preamble: connected + reset }
}

function parsePosition(lastEventId: string | undefined): number | null {
  if (lastEventId === undefined || lastEventId === '') return null
  if (!/^\d{1,15}$/.test(lastEventId)) throw new AppError('invalid_request', 'Last-Event-ID: must be a whole number')
  return Number(lastEventId)
}

/** Turns that are looked at for an end that nobody has received. */
const RECENT_TURNS = 50

/** Behind the last end; or before a turn whose end is fresh and was received by nobody, nor any end after it. */
async function freshPosition(sql: Sql, conversation: Conversation): Promise<number> {
  const [row] = await sql<{ startSeq: number | null }[]>`
    with recent as (
      select start_seq, end_seq, ended_at, end_seen_at from runs
      where organization_id = ${conversation.organizationId} and conversation_id = ${conversation.id}
        and turn > ${conversation.lastTurn - RECENT_TURNS} and end_seq <= ${conversation.endSeq}
    )
    select min(start_seq) as "startSeq" from recent
    where end_seen_at is null and ended_at > now() - ${UNSEEN_MS} * interval '1 millisecond'
      and end_seq > (select coalesce(max(end_seq), 0) from recent where end_seen_at is not null)`
  return Math.max(row?.startSeq ?? conversation.endSeq, conversation.prunedSeq)
}

/** What a client that missed events needs instead: what was said, and what is going on. */
async function takeSnapshot(
  sql: Sql,
  args: { actor: Actor; conversationId: string },
  conversation: Conversation,
): Promise<Record<string, unknown>> {
  const { messages } = await pageHistory(sql, { ...args, limit: SNAPSHOT_MESSAGES, newest: true })
  const open = await sql<{ runId: string; messageId: string; state: RunState }[]>`
    select id as "runId", message_id as "messageId", state from runs
    where organization_id = ${conversation.organizationId} and conversation_id = ${conversation.id}
      and state in ('queued', 'ready', 'delayed', 'running', 'absorbed')
    order by turn limit 100`
  return {
    agentId: conversation.id,
    conversationId: conversation.id,
    messages,
    runs: open.map(({ runId, messageId, state }) => ({ runId, messageId, status: publicStatus(state) })),
  }
}
