import type { Sql } from '../../db/client.ts'
import type { RunUsage } from '../../db/tables.ts'
import { inTransaction } from '../../db/transaction.ts'
import { newMessageId } from '../../lib/ids.ts'
import { storable } from '../../lib/text.ts'
import { appendEvents, numberEvents, type PublishedEvents, takeReplies } from '../../queue/thread-response.ts'
import { encodeEventLine } from '../../sse/frames.ts'
import type { Signals } from '../signals.ts'
import { findResumePoint } from './streamed-text.ts'
import { readSavedTexts, readSavedUsage, readStreamedText } from './turn-text.ts'

export interface EndOfRun {
  organizationId: string
  conversationId: string
  id: string
  /** Only while this claim counts; null ends the run whoever holds it. */
  fence: number | null
  status: 'completed' | 'failed' | 'cancelled'
  error?: { code: string; message: string } | undefined
  /** What the turn cost; the sum of its saved steps when the caller cannot tell. */
  usage?: RunUsage | undefined
  model?: string | undefined
  /** The turn's whole text, when the caller streamed it all; otherwise it is read from the log. */
  text?: string | undefined
  /**
   * Number of the last batch of replies that this claim has sent. Replies are stored by a commit that does not wait for the
   * disk: where a crash took some, the database knows a lower number, and the run is not ended but said again.
   */
  batch?: number | undefined
  /** Event lines of the run that were not sent before. */
  lastEvents?: string[] | undefined
  /** Trace context for what the end leaves behind; that of the message when the caller has none. */
  traceparent?: string | null | undefined
  /** Kept for a person to look at. */
  deadLetter?: boolean | undefined
}

export interface EndedRun {
  id: string
  messageId: string
}

export interface EndResult {
  /** The run, and those that it had taken in. Empty when it had ended before: the first end stays (I4). */
  ended: EndedRun[]
  published: PublishedEvents[]
  /** True when the conversation's next run can be claimed now. */
  nextReady: boolean
}

const NOTHING: EndResult = { ended: [], published: [], nextReady: false }

/** Ends a run in a transaction of its own and tells everybody. */
export async function endRun(deps: { sql: Sql; signals: Signals }, end: EndOfRun): Promise<EndResult> {
  const result = await inTransaction(deps.sql, (tx) => endRunIn(tx, end))
  if (result.published.length > 0) deps.signals.published(result.published)
  if (result.nextReady) deps.signals.runReady()
  const count = result.ended.length
  if (count > 0) deps.signals.runsEnded({ count, status: end.status, deadLetter: end.deadLetter ?? false })
  return result
}

/**
 * The one way a run ends: in one transaction it takes the rest of its replies off the queue, writes the terminal events
 * behind them, discharges the run and lets the next one go. The conversation is locked first, so that its numbers
 * follow commits (I2) and no reply can slip in behind the end.
 *
 * Statements that need no answer of one another are sent together: the database works them off in this order, and every
 * round trip is time for which the conversation is locked. Their values are strings and numbers that are there by then: one
 * that the driver could not write would leave it waiting for an answer that never comes (postgres.js 3.4, `execute`).
 */
export async function endRunIn(tx: Sql, given: EndOfRun): Promise<EndResult> {
  const [conversation, ended] = await Promise.all([lockConversation(tx, given), discharge(tx, given)])
  const run = ended[0]
  if (!conversation || !run) return NOTHING

  const usage = given.usage ?? (await readSavedUsage(tx, { ...given, turn: run.turn }))
  const end = { ...given, usage, error: storable(given.error) }
  const text =
    end.text ?? (await readStreamedText(tx, { ...end, afterSeq: conversation.endSeq, messageId: run.messageId }))
  if (end.status !== 'completed') await keepPartialAnswer(tx, end, { turn: run.turn, text })
  const published = numberEvents(await takeReplies(tx, end), {
    ...end,
    lastSeq: conversation.lastSeq,
    extra: [...(end.lastEvents ?? []), ...terminalEvents(end, ended, text)],
  })
  const lastSeq = published?.lastSeq ?? conversation.lastSeq
  const args = { ended, text, startSeq: conversation.endSeq, lastSeq, wasActive: run.wasActive }
  const [nextReady] = await Promise.all([
    settle(tx, end, args),
    published && appendEvents(tx, published),
    oweWebhooks(tx, end, ended, text),
    end.deadLetter && keepDeadLetter(tx, end, run),
  ])
  return { ended, published: published ? [published] : [], nextReady }
}

async function lockConversation(tx: Sql, { organizationId, conversationId }: EndOfRun) {
  const [conversation] = await tx<{ lastSeq: number; endSeq: number }[]>`
    select last_seq as "lastSeq", end_seq as "endSeq" from conversations
    where organization_id = ${organizationId} and id = ${conversationId} for no key update`
  return conversation
}

type KnownEnd = EndOfRun & { usage: RunUsage }
type Discharged = EndedRun & {
  turn: number
  attempt: number
  wasActive: boolean
  webhookUrl: string | null
  traceparent: string | null
}

/** Makes the run, and those it took in, terminal. Nothing comes back when somebody else ended it or holds it now, or replies are lost. */
async function discharge(tx: Sql, end: EndOfRun): Promise<Discharged[]> {
  const [own, absorbed] = await Promise.all([
    tx<Discharged[]>`
      update runs r set state = ${end.status}, ended_at = now(), replica = null, lease_until = null, due_at = null,
        preferred_replica = null
      from (select id, state from runs where organization_id = ${end.organizationId} and id = ${end.id} for update) before
      where r.organization_id = ${end.organizationId} and r.id = before.id
        and r.state in ('queued', 'ready', 'delayed', 'running')
        and (${end.fence}::bigint is null or (r.fence = ${end.fence} and r.state = 'running'))
        and (${end.batch ?? null}::int is null or r.reply_batch = ${end.batch ?? null})
      returning r.id, r.message_id as "messageId", r.turn, r.attempt, before.state <> 'queued' as "wasActive",
        r.webhook_url as "webhookUrl", r.traceparent`,
    // Those of a run that goes on stay with it; it is terminal here when the statement before has ended it.
    tx<Discharged[]>`
      update runs set state = ${end.status}, ended_at = now()
      where organization_id = ${end.organizationId} and conversation_id = ${end.conversationId}
        and absorbed_by = ${end.id} and state = 'absorbed'
        and exists (select 1 from runs own where own.organization_id = ${end.organizationId} and own.id = ${end.id}
          and own.state in ('completed', 'failed', 'cancelled'))
      returning id, message_id as "messageId", turn, attempt, false as "wasActive", webhook_url as "webhookUrl",
        traceparent`,
  ])
  return own.length === 0 ? [] : [...own, ...absorbed]
}

/** One `complete` for every message that this run answered; a failure says why before it. */
function terminalEvents(end: KnownEnd, ended: EndedRun[], text: string): string[] {
  const timestamp = Date.now()
  const processedMessageIds = ended.map((run) => run.messageId)
  return ended.flatMap(({ messageId }) => {
    const complete = encodeEventLine('complete', {
      type: 'complete',
      messageId,
      processedMessageIds,
      finalText: text,
      usage: end.usage,
      status: end.status,
      timestamp,
    })
    if (end.status !== 'failed') return [complete]
    const { code, message } = end.error ?? { code: 'internal', message: 'The turn failed' }
    return [encodeEventLine('error', { type: 'error', error: message, code, messageId, timestamp }), complete]
  })
}

/** Writes the numbers back, records the result, and makes the next run of the conversation claimable. */
async function settle(
  tx: Sql,
  end: KnownEnd,
  args: { ended: EndedRun[]; text: string; startSeq: number; lastSeq: number; wasActive: boolean },
): Promise<boolean> {
  const [, , next] = await Promise.all([
    // A run that never had its turn ends in the middle of another's events: those stay the unfinished turn.
    tx`
      update conversations set last_seq = ${args.lastSeq}, open_runs = open_runs - ${args.ended.length},
        end_seq = case when ${args.wasActive} then ${args.lastSeq} else end_seq end, last_activity_at = now()
      where organization_id = ${end.organizationId} and id = ${end.conversationId}`,
    tx`
      update runs set result_text = ${storable(args.text)}, usage = ${tx.json(end.usage as never)},
        model = ${end.model ?? null}, error_code = ${end.error?.code ?? null}, error_message = ${end.error?.message ?? null},
        start_seq = ${args.startSeq}, end_seq = ${args.lastSeq}
      where organization_id = ${end.organizationId} and id = any(${args.ended.map((run) => run.id)}::uuid[])`,
    args.wasActive
      ? tx`
          update runs set state = 'ready', ready_at = now() where organization_id = ${end.organizationId} and id = (
            select id from runs where organization_id = ${end.organizationId} and conversation_id = ${end.conversationId}
              and state = 'queued' order by turn limit 1)
          returning 1`
      : [],
  ])
  return next.length > 0
}

/** What the user saw of an answer that was cut off belongs to the transcript, or the next turn would not know of it. */
async function keepPartialAnswer(tx: Sql, end: EndOfRun, { turn, text }: { turn: number; text: string }) {
  const { partial } = findResumePoint(await readSavedTexts(tx, { ...end, turn }), text)
  if (partial === '') return
  const clean = storable(partial)
  await tx`
    insert into messages (organization_id, conversation_id, id, run_id, turn, position, role, content, text, model)
    select ${end.organizationId}, ${end.conversationId}, ${newMessageId()}, ${end.id}, ${turn},
      coalesce(max(position), -1) + 1, 'assistant', ${tx.json({ role: 'assistant', content: clean } as never)}, ${clean},
      ${end.model ?? null}
    from messages where organization_id = ${end.organizationId} and conversation_id = ${end.conversationId}
      and turn = ${turn}`
}

/** A caller that asked to be called is owed that call by the same commit. */
async function oweWebhooks(tx: Sql, end: KnownEnd, ended: Discharged[], text: string) {
  for (const run of ended) {
    if (!run.webhookUrl) continue
    const payload = {
      runId: run.id,
      messageId: run.messageId,
      agentId: end.conversationId,
      conversationId: end.conversationId,
      status: end.status,
      finalText: text,
      usage: end.usage,
      error: end.error ?? null,
    }
    await tx`
      insert into outbox (organization_id, id, kind, target, payload, traceparent)
      values (${end.organizationId}, ${run.id}, 'webhook', ${run.webhookUrl}, ${tx.json(storable(payload) as never)},
        ${(run.id === end.id ? end.traceparent : null) ?? run.traceparent})`
  }
}

async function keepDeadLetter(tx: Sql, end: EndOfRun, run: Discharged) {
  await tx`
    insert into dead_letters (organization_id, id, queue, payload, error, attempts)
    values (${end.organizationId}, ${run.id}, 'runs',
      ${tx.json({ conversationId: end.conversationId, messageId: run.messageId } as never)},
      ${end.error?.message ?? 'unknown'}, ${run.attempt}) on conflict do nothing`
}
