/** Durable work: runs, replies on their way, calls owed to the outside, and what failed for good. */
import { sql } from 'drizzle-orm'
import {
  bigint,
  boolean,
  check,
  foreignKey,
  index,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  text,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'
import type { RunState, RunUsage } from '../shapes.ts'
import { at, int8 } from './columns.ts'
import { conversations } from './conversations.ts'

export const runs = pgTable(
  'runs',
  {
    organizationId: text('organization_id').notNull(),
    id: uuid('id').notNull(),
    conversationId: text('conversation_id').notNull(),
    /** Order of acceptance over all conversations. */
    ordinal: bigint('ordinal', { mode: 'number' }).notNull().generatedAlwaysAsIdentity(),
    /** Order of acceptance within the conversation. */
    turn: int8('turn').notNull(),
    messageId: text('message_id').notNull(),
    state: text('state').$type<RunState>().notNull(),
    attempt: integer('attempt').notNull().default(0),
    /** Fencing number: grows with every claim; a write that names an old one changes nothing (I5). */
    fence: int8('fence').notNull().default(0),
    /** Number of the last batch of replies taken from this claim: a batch that is sent twice is stored once. */
    replyBatch: integer('reply_batch').notNull().default(0),
    replica: text('replica'),
    leaseUntil: at('lease_until'),
    dueAt: at('due_at'),
    preferredReplica: text('preferred_replica'),
    /** May be taken into the turn that is running now. */
    steer: boolean('steer').notNull().default(false),
    absorbedBy: uuid('absorbed_by'),
    webhookUrl: text('webhook_url'),
    traceparent: text('traceparent'),
    model: text('model'),
    /** Log positions between which this run's events lie: after `startSeq`, up to `endSeq`. Null again once pruned. */
    startSeq: int8('start_seq'),
    endSeq: int8('end_seq'),
    /** When somebody first had the end: it was taken off by a stream that did not break, or the run was read. */
    endSeenAt: at('end_seen_at'),
    resultText: text('result_text'),
    usage: jsonb('usage').$type<RunUsage>(),
    errorCode: text('error_code'),
    errorMessage: text('error_message'),
    createdAt: at('created_at').notNull().defaultNow(),
    /** When it last became claimable; null for one that has been so since it was accepted. */
    readyAt: at('ready_at'),
    startedAt: at('started_at'),
    endedAt: at('ended_at'),
  },
  (t) => [
    primaryKey({ name: 'runs_pkey', columns: [t.organizationId, t.id] }),
    foreignKey({
      name: 'runs_conversation_fkey',
      columns: [t.organizationId, t.conversationId],
      foreignColumns: [conversations.organizationId, conversations.id],
    }).onDelete('cascade'),
    uniqueIndex('runs_turn_idx').on(t.organizationId, t.conversationId, t.turn),
    index('runs_ready_idx').on(t.organizationId, t.ordinal).where(sql`${t.state} = 'ready'`),
    index('runs_due_idx').on(t.dueAt).where(sql`${t.state} = 'delayed'`),
    index('runs_preferred_idx')
      .on(t.preferredReplica, t.ordinal)
      .where(sql`${t.state} = 'delayed' and ${t.preferredReplica} is not null`),
    uniqueIndex('runs_id_idx').on(t.id),
    index('runs_open_idx')
      .on(t.organizationId, t.conversationId, t.turn)
      .where(sql`${t.state} in ('queued', 'ready', 'delayed', 'running', 'absorbed')`),
    index('runs_prune_idx').on(t.endedAt).where(sql`${t.endSeq} is not null`),
    index('runs_running_idx').on(t.organizationId, t.id).where(sql`${t.state} = 'running'`),
    check(
      'runs_state_check',
      sql`${t.state} in ('queued', 'ready', 'delayed', 'running', 'absorbed', 'completed', 'failed', 'cancelled')`,
    ),
    check('runs_lease_check', sql`(${t.state} = 'running') = (${t.leaseUntil} is not null)`),
    check('runs_end_check', sql`(${t.state} in ('completed', 'failed', 'cancelled')) = (${t.endedAt} is not null)`),
  ],
)

export const threadResponse = pgTable(
  'thread_response',
  {
    id: bigint('id', { mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
    organizationId: text('organization_id').notNull(),
    conversationId: text('conversation_id').notNull(),
    eventCount: integer('event_count').notNull(),
    events: text('events').notNull(),
    /** Of the run, on the first batch of each claim when it is traced. */
    traceparent: text('traceparent'),
    createdAt: at('created_at').notNull().defaultNow(),
  },
  (t) => [
    index('thread_response_conversation_idx').on(t.organizationId, t.conversationId, t.id),
    check('thread_response_count_check', sql`${t.eventCount} > 0`),
  ],
)

export const outbox = pgTable(
  'outbox',
  {
    organizationId: text('organization_id').notNull(),
    id: uuid('id').notNull(),
    kind: text('kind').notNull(),
    target: text('target').notNull(),
    /** Host and port of `target`, lower case; cut off, so that no URL is too long for the index. */
    targetHost: text('target_host')
      .notNull()
      .generatedAlwaysAs(sql`left(coalesce(lower(substring(target from '^[^/]*//([^/?#]*)')), ''), 253)`),
    payload: jsonb('payload').notNull(),
    /** W3C trace context that goes out with the call. */
    traceparent: text('traceparent'),
    /** Grows with every claim, and so is the fence as well. */
    attempt: integer('attempt').notNull().default(0),
    /** May be claimed now. */
    ready: boolean('ready').notNull().default(true),
    /** When it becomes ready again: the time of its next try, or the end of the lease of whoever makes it now. */
    dueAt: at('due_at').notNull().defaultNow(),
    createdAt: at('created_at').notNull().defaultNow(),
  },
  (t) => [
    primaryKey({ name: 'outbox_pkey', columns: [t.organizationId, t.id] }),
    index('outbox_ready_idx').on(t.kind, t.organizationId, t.targetHost, t.dueAt).where(sql`${t.ready}`),
    index('outbox_due_idx').on(t.dueAt).where(sql`not ${t.ready}`),
    index('outbox_created_idx').on(t.createdAt),
    check('outbox_payload_check', sql`jsonb_typeof(${t.payload}) = 'object'`),
  ],
)

export const deadLetters = pgTable(
  'dead_letters',
  {
    organizationId: text('organization_id').notNull(),
    id: uuid('id').notNull(),
    queue: text('queue').notNull(),
    payload: jsonb('payload').notNull(),
    error: text('error').notNull(),
    attempts: integer('attempts').notNull(),
    createdAt: at('created_at').notNull().defaultNow(),
  },
  (t) => [
    primaryKey({ name: 'dead_letters_pkey', columns: [t.organizationId, t.id] }),
    index('dead_letters_created_idx').on(t.createdAt),
  ],
)
