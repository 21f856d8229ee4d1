/** What answers. */
import { sql } from 'drizzle-orm'
import { boolean, check, pgTable, primaryKey, text, uniqueIndex } from 'drizzle-orm/pg-core'
import { organizationId } from './accounts.ts'
import { at } from './columns.ts'

export const agents = pgTable(
  'agents',
  {
    organizationId: organizationId(),
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
