/** What streams are served from, and who serves them. */
import { sql } from 'drizzle-orm'
import { check, index, pgTable, primaryKey, text, uuid } from 'drizzle-orm/pg-core'
import { at, int8 } from './columns.ts'

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

export const replicas = pgTable('replicas', {
  id: text('id').primaryKey(),
  version: text('version').notNull(),
  leaseUntil: at('lease_until').notNull(),
  startedAt: at('started_at').notNull().defaultNow(),
})

export const streamPresence = pgTable(
  'stream_presence',
  {
    organizationId: text('organization_id').notNull(),
    conversationId: text('conversation_id').notNull(),
    id: uuid('id').notNull(),
    /** Number behind which the stream began: it is to be sent all ends that come after. */
    afterSeq: int8('after_seq').notNull().default(0),
    replicaId: text('replica_id')
      .notNull()
      .references(() => replicas.id, { onDelete: 'cascade' }),
  },
  (t) => [
    primaryKey({ name: 'stream_presence_pkey', columns: [t.organizationId, t.conversationId, t.id] }),
    index('stream_presence_replica_idx').on(t.replicaId),
  ],
)
