import { randomUUID } from 'node:crypto'
import type { Sql } from '../../db/client.ts'
import type { RunState } from '../../db/tables.ts'
import { inTransaction } from '../../db/transaction.ts'
import { backoffMs } from '../../lib/backoff.ts'
import { AppError } from '../../lib/errors.ts'
import { sleep } from '../../lib/sleep.ts'
import { formatNotice } from '../../sse/frames.ts'
import { hasOpenStream, notePresence, type StreamKey } from '../../sse/presence.ts'
import { type Actor, requireConversation } from '../accounts/actor.ts'
import { pageHistory } from '../messages/history.ts'
import { publicStatus } from '../runs/get.ts'
import { type Conversation, getConversation } from './get.ts'

/**
 * A turn that ended less than this ago, and whose end nobody has received, is shown to a fresh stream: a client that
 * posts and connects at the same time must not miss a quick answer. One that somebody has seen is never shown again.
 */
const UNSEEN_MS = 30_000
/**
 * While another stream is open that is to be sent such an end, a fresh one waits for so long to hear that it was. The
 * note of that is on its way for a moment; a replica that died, or a reader that does not read, never sends one.
 */
const SEEN_MS_MAX = 5_000
const SEEN_POLL = { baseMs: 50, maxMs: 500 }
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
 * conversation's lock: a turn that ends meanwhile is either seen here as ended, or comes behind that place.
 *
 * @throws AppError 'not_found', 'invalid_request'
 */
export async function followConversation(sql: Sql, args: FollowConversation): Promise<Following> {
  const position = parsePosition(args.lastEventId)
  const waitsUntil = performance.now() + SEEN_MS_MAX
  for (let tries = 1; ; tries++) {
    const isPatient = performance.now() < waitsUntil
    const following = await inTransaction(sql, (tx) => beginStream(tx, args, { position, isPatient }))
    if (following) return following
    await sleep(backoffMs(tries, SEEN_POLL))
  }
}

/** Null when it is not known yet whether somebody else has been shown what this stream would begin with. */
async function beginStream(
  tx: Sql,
  args: FollowConversation,
  { position, isPatient }: { position: number | null; isPatient: boolean },
): Promise<Following | null> {
  const conversation = await lockConversation(tx, args)
  const { organizationId, id: conversationId, lastSeq: head, prunedSeq, endSeq } = conversation
  const stream = { organizationId, conversationId, id: randomUUID() }
  let preamble = formatNotice('connected', { agentId: conversationId, conversationId, timestamp: Date.now() })
  let after = position
  if (after === null) after = await freshPosition(tx, conversation, { isPatient })
  else if (after < prunedSeq || after > head) {
    preamble += formatNotice('reset', { oldest: prunedSeq + 1, snapshot: await takeSnapshot(tx, args, conversation) })
    after = Math.max(endSeq, prunedSeq)
  }
  if (after === null) return null
  await notePresence(tx, stream, { replica: args.replica, after })
  return { organizationId, conversationId, head, stream, after, preamble }
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
 * Behind the last end; or before a turn whose end is fresh and was seen by nobody, nor any end after it. Null when it may
 * be on its way to another stream at this moment. The runs' rows are locked, so that of two that open at once the second
 * finds the first.
 */
async function freshPosition(
  tx: Sql,
  conversation: Conversation,
  { isPatient }: { isPatient: boolean },
): Promise<number | null> {
  const { organizationId, id: conversationId, endSeq, prunedSeq } = conversation
  const unseen = await tx<{ startSeq: number; endSeq: number }[]>`
    with recent as (
      select id, start_seq, end_seq, ended_at, end_seen_at from runs
      where organization_id = ${organizationId} and conversation_id = ${conversationId}
        and turn > ${conversation.lastTurn - RECENT_TURNS} and end_seq <= ${endSeq}
    )
    select r.start_seq as "startSeq", r.end_seq as "endSeq" from runs r
    where r.organization_id = ${organizationId}
      and r.id in (select id from recent
        where ended_at > now() - ${UNSEEN_MS} * interval '1 millisecond'
          and end_seq > (select coalesce(max(end_seq), 0) from recent where end_seen_at is not null))
      and r.end_seen_at is null
    order by r.id for no key update of r`
  if (unseen.length === 0) return Math.max(endSeq, prunedSeq)
  const before = Math.max(...unseen.map((run) => run.endSeq))
  if (isPatient && (await hasOpenStream(tx, { organizationId, conversationId, before }))) return null
  return Math.max(Math.min(...unseen.map((run) => run.startSeq)), prunedSeq)
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
