/** What was said: conversations, their transcript, and the files that came with it. */
import { sql } from 'drizzle-orm'
import {
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
import type { ConversationSettings, RunUsage } from '../shapes.ts'
import { agents } from './agents.ts'
import { at, bytea, int8 } from './columns.ts'

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
    /** Settings that may hold credentials (`ConfidentialSettings`), encrypted and bound to the agent, user and thread. */
    sealedSettings: text('sealed_settings'),
    settingsKeyId: text('settings_key_id'),
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
    index('conversations_id_idx').on(t.id),
    uniqueIndex('conversations_resume_idx')
      .on(t.organizationId, t.agentId, t.userId, t.thread)
      .where(sql`${t.status} = 'active' and ${t.resumable}`),
    index('conversations_settings_key_idx').on(t.settingsKeyId).where(sql`${t.settingsKeyId} is not null`),
    check('conversations_status_check', sql`${t.status} in ('active', 'ended')`),
    check('conversations_settings_check', sql`jsonb_typeof(${t.settings}) = 'object'`),
    check('conversations_open_runs_check', sql`${t.openRuns} >= 0`),
  ],
)

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
