/**
 * The schema as drizzle sees it. The SQL in `src/migrations/` is what makes it; a test compares the two.
 * The organization is the first column of every key (I9), so that a query without it cannot use an index.
 */
import { sql } from 'drizzle-orm'
import {
  bigint,
  boolean,
  check,
  customType,
  foreignKey,
  index,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  text,
  timestamp,
  uniqueIndex,
  uuid,
} from 'drizzle-orm/pg-core'
import type { ConversationSettings, RunState, RunUsage } from './shapes.ts'

export type { ConversationSettings, RunState, RunUsage }

const at = (name: string) => timestamp(name, { withTimezone: true, mode: 'date' })
const int8 = (name: string) => bigint(name, { mode: 'number' })
const bytea = customType<{ data: Buffer }>({ dataType: () => 'bytea' })

export const organizations = pgTable('organizations', {
  id: text('id').primaryKey(),
  slug: text('slug').notNull().unique('organizations_slug_key'),
  name: text('name').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
})

export const users = pgTable('users', {
  id: text('id').primaryKey(),
  email: text('email').notNull().unique('users_email_key'),
  name: text('name').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
  updatedAt: at('updated_at').notNull().defaultNow(),
})

export const members = pgTable(
  'members',
  {
    organizationId: text('organization_id')
      .notNull()
      .references(() => organizations.id, { onDelete: 'cascade' }),
    userId: text('user_id')
      .notNull()
      .references(() => users.id, { onDelete: 'cascade' }),
    role: text('role').notNull(),
    createdAt: at('created_at').notNull().defaultNow(),
  },
  (t) => [
    primaryKey({ name: 'members_pkey', columns: [t.organizationId, t.userId] }),
    check('members_role_check', sql`${t.role} in ('owner', 'admin', 'member', 'viewer')`),
  ],
)

/** Only the SHA-256 of a key is kept; the key itself is shown once, when it is made. */
export const apiKeys = pgTable(
  'api_keys',
  {
    organizationId: text('organization_id')
      .notNull()
      .references(() => organizations.id, { onDelete: 'cascade' }),
    id: text('id').notNull(),
    userId: text('user_id').references(() => users.id, { onDelete: 'cascade' }),
    name: text('name').notNull(),
    tokenHash: text('token_hash').notNull().unique('api_keys_token_hash_key'),
    tokenPrefix: text('token_prefix').notNull(),
    createdAt: at('created_at').notNull().defaultNow(),
    expiresAt: at('expires_at'),
    revokedAt: at('revoked_at'),
  },
  (t) => [primaryKey({ name: 'api_keys_pkey', columns: [t.organizationId, t.id] })],
)

export const agents = pgTable(
  'agents',
  {
    organizationId: text('organization_id')
      .notNull()
      .references(() => organizations.id, { onDelete: 'cascade' }),
    id: text('id').notNull(),
    name: text('name').notNull(),
    description: text('description').notNull().default(''),
    /** `provider/model`; null takes the gateway's default. */
    model: text('model'),
    instructions: text('instructions').notNull().default(''),
    isDefault: boolean('is_default').notNull().default(false),
    createdAt: at('created_at').notNull().defaultNow(),
    updatedAt: at('updated_at').notNull().defaultNow(),
    lastUsedAt: at('last_used_at'),
  },
  (t) => [
    primaryKey({ name: 'agents_pkey', columns: [t.organizationId, t.id] }),
    uniqueIndex('agents_default_idx').on(t.organizationId).where(sql`${t.isDefault}`),
    check('agents_id_check', sql`${t.id} ~ '^[a-z][a-z0-9-]{2,59}$'`),
  ],
)

export const conversations = pgTable(
  'conversations',
  {
    organizationId: text('organization_id').notNull(),
    id: text('id').notNull(),
    agentId: text('agent_id').notNull(),
    /** The caller's own name for its user and thread; together with the agent they find a conversation again. */
    userId: text('user_id').notNull(),
    thread: text('thread').notNull(),
    status: text('status').notNull().default('active'),
    /** False once a newer conversation took over its agent, user and thread. */
    resumable: boolean('resumable').notNull().default(true),
    settings: jsonb('settings').$type<ConversationSettings>().notNull().default({}),
    /** Turn number given last. */
    lastTurn: int8('last_turn').notNull().default(0),
    /** Runs that have not ended: 0 means that the next message may run at once. */
    openRuns: integer('open_runs').notNull().default(0),
    /** Event number given last; the next event gets the next one, under this row's lock (I2). */
    lastSeq: int8('last_seq').notNull().default(0),
    /** Number of the last turn's end: what comes after belongs to the turn that is unfinished. */
    endSeq: int8('end_seq').notNull().default(0),
    /** Up to here the log is no longer complete: an older position gets `reset`. */
    prunedSeq: int8('pruned_seq').notNull().default(0),
    /** Replica that last ran a turn and may still hold the worker. */
    workerReplica: text('worker_replica'),
    createdAt: at('created_at').notNull().defaultNow(),
    lastActivityAt: at('last_activity_at').notNull().defaultNow(),
  },
  (t) => [
    primaryKey({ name: 'conversations_pkey', columns: [t.organizationId, t.id] }),
    foreignKey({
      name: 'conversations_agent_fkey',
      columns: [t.organizationId, t.agentId],
      foreignColumns: [agents.organizationId, agents.id],
    }).onDelete('cascade'),
    uniqueIndex('conversations_resume_idx')
      .on(t.organizationId, t.agentId, t.userId, t.thread)
      .where(sql`${t.status} = 'active' and ${t.resumable}`),
    check('conversations_status_check', sql`${t.status} in ('active', 'ended')`),
    check('conversations_settings_check', sql`jsonb_typeof(${t.settings}) = 'object'`),
    check('conversations_open_runs_check', sql`${t.openRuns} >= 0`),
  ],
)

/**
 * One run answers one message. The drawing of its states is in `src/queue/runs.ts`.
 * Rows stay as the record of what happened; every hot index is partial and holds unfinished rows alone.
 */
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
    /** When somebody could first see the end: a stream of the conversation was open, or was shown it, or the run was read. */
    endSeenAt: at('end_seen_at'),
    resultText: text('result_text'),
    usage: jsonb('usage').$type<RunUsage>(),
    errorCode: text('error_code'),
    errorMessage: text('error_message'),
    createdAt: at('created_at').notNull().defaultNow(),
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

/** The transcript: what users wrote and what each finished step of a run added. */
export const messages = pgTable(
  'messages',
  {
    organizationId: text('organization_id').notNull(),
    conversationId: text('conversation_id').notNull(),
    id: text('id').notNull(),
    runId: uuid('run_id').notNull(),
    turn: int8('turn').notNull(),
    position: integer('position').notNull(),
    role: text('role').notNull(),
    /** The message as the model sees it (the AI SDK's ModelMessage). */
    content: jsonb('content').notNull(),
    /** Its visible text. */
    text: text('text').notNull(),
    /** SHA-256 of the request, to tell a repeated message from another one under the same id. */
    bodyHash: text('body_hash'),
    model: text('model'),
    usage: jsonb('usage').$type<RunUsage>(),
    createdAt: at('created_at').notNull().defaultNow(),
  },
  (t) => [
    primaryKey({ name: 'messages_pkey', columns: [t.organizationId, t.conversationId, t.id] }),
    foreignKey({
      name: 'messages_conversation_fkey',
      columns: [t.organizationId, t.conversationId],
      foreignColumns: [conversations.organizationId, conversations.id],
    }).onDelete('cascade'),
    uniqueIndex('messages_order_idx').on(t.organizationId, t.conversationId, t.turn, t.position),
    check('messages_role_check', sql`${t.role} in ('user', 'assistant', 'tool')`),
    check('messages_content_check', sql`jsonb_typeof(${t.content}) = 'object'`),
  ],
)

/**
 * Replies on their way to the log. `events` holds one event a line: its name, a space, its data as one-line JSON.
 * Small and short-lived, without foreign keys: a row is inserted only beside a lock on the run it belongs to.
 */
export const threadResponse = pgTable(
  'thread_response',
  {
    id: bigint('id', { mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
    organizationId: text('organization_id').notNull(),
    conversationId: text('conversation_id').notNull(),
    eventCount: integer('event_count').notNull(),
    events: text('events').notNull(),
  },
  (t) => [
    index('thread_response_conversation_idx').on(t.organizationId, t.conversationId, t.id),
    check('thread_response_count_check', sql`${t.eventCount} > 0`),
  ],
)

/** What streams are served from: events `firstSeq`…`lastSeq` of a conversation, one a line, as in `thread_response`. */
export const eventLog = pgTable(
  'event_log',
  {
    organizationId: text('organization_id').notNull(),
    conversationId: text('conversation_id').notNull(),
    firstSeq: int8('first_seq').notNull(),
    lastSeq: int8('last_seq').notNull(),
    events: text('events').notNull(),
    createdAt: at('created_at').notNull().defaultNow(),
  },
  (t) => [
    primaryKey({ name: 'event_log_pkey', columns: [t.organizationId, t.conversationId, t.lastSeq] }),
    check('event_log_range_check', sql`${t.firstSeq} <= ${t.lastSeq}`),
  ],
)

/** Work that failed as often as it may: kept for a person to look at. */
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
  (t) => [primaryKey({ name: 'dead_letters_pkey', columns: [t.organizationId, t.id] })],
)

/** Calls that the gateway owes to the outside, such as the webhook at a run's end. Deleted when delivered. */
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
    check('outbox_payload_check', sql`jsonb_typeof(${t.payload}) = 'object'`),
  ],
)

/** A file that came with a message. Its bytes lie in `file_chunks`, 1 MiB a row. */
export const files = pgTable(
  'files',
  {
    organizationId: text('organization_id').notNull(),
    id: text('id').notNull(),
    conversationId: text('conversation_id').notNull(),
    /** Null until the message that brought it is accepted; such files are removed after an hour. */
    messageId: text('message_id'),
    name: text('name').notNull(),
    mediaType: text('media_type').notNull(),
    bytes: int8('bytes').notNull(),
    sha256: text('sha256').notNull(),
    createdAt: at('created_at').notNull().defaultNow(),
  },
  (t) => [
    primaryKey({ name: 'files_pkey', columns: [t.organizationId, t.id] }),
    foreignKey({
      name: 'files_conversation_fkey',
      columns: [t.organizationId, t.conversationId],
      foreignColumns: [conversations.organizationId, conversations.id],
    }).onDelete('cascade'),
    index('files_message_idx').on(t.organizationId, t.conversationId, t.messageId),
    index('files_staged_idx').on(t.createdAt).where(sql`${t.messageId} is null`),
  ],
)

export const fileChunks = pgTable(
  'file_chunks',
  {
    organizationId: text('organization_id').notNull(),
    fileId: text('file_id').notNull(),
    ordinal: integer('ordinal').notNull(),
    data: bytea('data').notNull(),
  },
  (t) => [
    primaryKey({ name: 'file_chunks_pkey', columns: [t.organizationId, t.fileId, t.ordinal] }),
    foreignKey({
      name: 'file_chunks_file_fkey',
      columns: [t.organizationId, t.fileId],
      foreignColumns: [files.organizationId, files.id],
    }).onDelete('cascade'),
  ],
)

/** The replicas that live now: each keeps its own row fresh. */
export const replicas = pgTable('replicas', {
  id: text('id').primaryKey(),
  version: text('version').notNull(),
  leaseUntil: at('lease_until').notNull(),
  startedAt: at('started_at').notNull().defaultNow(),
})

/** The open streams, each by an id of its own, and the replica that holds it. A row counts only while the replica lives. */
export const streamPresence = pgTable(
  'stream_presence',
  {
    organizationId: text('organization_id').notNull(),
    conversationId: text('conversation_id').notNull(),
    id: uuid('id').notNull(),
    replicaId: text('replica_id')
      .notNull()
      .references(() => replicas.id, { onDelete: 'cascade' }),
  },
  (t) => [
    primaryKey({ name: 'stream_presence_pkey', columns: [t.organizationId, t.conversationId, t.id] }),
    index('stream_presence_replica_idx').on(t.replicaId),
  ],
)
