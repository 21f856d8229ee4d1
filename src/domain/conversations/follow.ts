import { randomUUID } from 'node:crypto'
import type { Sql } from '../../db/client.ts'
import type { RunState } from '../../db/tables.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { formatNotice } from '../../sse/frames.ts'
import { notePresence, type StreamKey } from '../../sse/presence.ts'
import { type Actor, requireConversation } from '../accounts/actor.ts'
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
  /** The open stream, as `stream_presence` has it; whoever serves it says when it is over. */
  stream: StreamKey
}

export interface FollowConversation {
  actor: Actor
  conversationId: string
  /** The position to resume from; without it the stream is fresh and starts with the turn that is unfinished, if any. */
  lastEventId?: string | undefined
  /** Replica that will serve the stream. */
  replica: string
}

/**
 * Decides where a stream of a conversation starts, and notes that it is open, in one transaction under the
 * conversation's lock: a turn that ends meanwhile is either seen here as ended, or finds the stream open.
 *
 * @throws AppError 'not_found', 'invalid_request'
 */
export async function followConversation(sql: Sql, args: FollowConversation): Promise<Following> {
  const position = parsePosition(args.lastEventId)
  return inTransaction(sql, async (tx) => {
    const conversation = await lockConversation(tx, args)
    const { organizationId, id: conversationId, lastSeq: head, prunedSeq, endSeq } = conversation
    const stream = { organizationId, conversationId, id: randomUUID() }
    await notePresence(tx, stream, args.replica)
    const place = { organizationId, conversationId, head, stream }
    const connected = formatNotice('connected', { agentId: conversationId, conversationId, timestamp: Date.now() })
    if (position === null) return { ...place, after: await freshPosition(tx, conversation), preamble: connected }
    if (position >= prunedSeq && position <= head) return { ...place, after: position, preamble: connected }
    const reset = formatNotice('reset', { oldest: prunedSeq + 1, snapshot: await takeSnapshot(tx, args, conversation) })
    return { ...place, after: Math.max(endSeq, prunedSeq), preamble: connected + reset }
  })
}

/** Publishing and ending wait for this lock, and it for them; other streams do not. */
async function lockConversation(tx: Sql, args: FollowConversation): Promise<Conversation> {
  requireConversation(args.actor, args.conversationId)
  await tx`
    select 1 from conversations where organization_id = ${args.actor.organizationId} and id = ${args.conversationId}
    for share`
  return getConversation(tx, args)
}

function parsePosition(lastEventId: string | undefined): number | null {
  if (lastEventId === undefined || lastEventId === '') return null
  if (!/^\d{1,15}$/.test(lastEventId)) throw new AppError('invalid_request', 'Last-Event-ID: must be a whole number')
  return Number(lastEventId)
}

/** Turns that are looked at for an end that nobody has received. */
const RECENT_TURNS = 50

/**
 * Behind the last end; or before a turn whose end is fresh and was seen by nobody, nor any end after it. Such a turn is
 * given to this stream alone: another that opens at the same moment waits for the run's row and then finds it seen.
 */
async function freshPosition(tx: Sql, conversation: Conversation): Promise<number> {
  const [row] = await tx<{ startSeq: number | null }[]>`
    with recent as (
      select id, start_seq, end_seq, ended_at, end_seen_at from runs
      where organization_id = ${conversation.organizationId} and conversation_id = ${conversation.id}
        and turn > ${conversation.lastTurn - RECENT_TURNS} and end_seq <= ${conversation.endSeq}
    ), unseen as materialized (
      select r.id, r.start_seq from runs r
      where r.organization_id = ${conversation.organizationId}
        and r.id in (select id from recent
          where ended_at > now() - ${UNSEEN_MS} * interval '1 millisecond'
            and end_seq > (select coalesce(max(end_seq), 0) from recent where end_seen_at is not null))
        and r.end_seen_at is null
      order by r.id for no key update of r
    ), shown as (
      update runs set end_seen_at = now()
      where organization_id = ${conversation.organizationId} and id in (select id from unseen)
    )
    select min(start_seq) as "startSeq" from unseen`
  return Math.max(row?.startSeq ?? conversation.endSeq, conversation.prunedSeq)
}

/** What a client that missed events needs instead: what was said, and what is going on. The stream tells the unfinished turn. */
async function takeSnapshot(
  sql: Sql,
  args: { actor: Actor; conversationId: string },
  conversation: Conversation,
): Promise<Record<string, unknown>> {
  const { messages } = await pageHistory(sql, {
    ...args,
    limit: SNAPSHOT_MESSAGES,
    newest: true,
    endedOnly: true,
  })
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
