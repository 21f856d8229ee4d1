/** Who may use the gateway: organizations, their people, keys and invitations. How people sign in is in `sign-in.ts`. */
import { sql } from 'drizzle-orm'
import { boolean, check, index, pgTable, primaryKey, text, uniqueIndex } from 'drizzle-orm/pg-core'
import { at } from './columns.ts'

export const organizations = pgTable(
  'organizations',
  {
    id: text('id').primaryKey(),
    slug: text('slug').notNull().unique('organizations_slug_key'),
    name: text('name').notNull(),
    /** The one that a fresh install begins with, and that people of the operator's own provider join, whatever it is called. */
    isDefault: boolean('is_default').notNull().default(false),
    createdAt: at('created_at').notNull().defaultNow(),
  },
  (t) => [uniqueIndex('organizations_default_idx').on(t.isDefault).where(sql`${t.isDefault}`)],
)

/** The first column of what belongs to an organization, and is removed with it. */
export const organizationId = () =>
  text('organization_id')
    .notNull()
    .references(() => organizations.id, { onDelete: 'cascade' })

/** People. Written by better-auth, which wants these property names, and at the set-up of a fresh install. */
export const users = pgTable('users', {
  id: text('id').primaryKey(),
  email: text('email').notNull().unique('users_email_key'),
  emailVerified: boolean('email_verified').notNull().default(false),
  name: text('name').notNull(),
  image: text('image'),
  twoFactorEnabled: boolean('two_factor_enabled').notNull().default(false),
  createdAt: at('created_at').notNull().defaultNow(),
  updatedAt: at('updated_at').notNull().defaultNow(),
})

const userId = () => text('user_id').references(() => users.id, { onDelete: 'cascade' })

export const members = pgTable(
  'members',
  {
    organizationId: organizationId(),
    userId: userId().notNull(),
    role: text('role').$type<'owner' | 'admin' | 'member' | 'viewer'>().notNull(),
    createdAt: at('created_at').notNull().defaultNow(),
  },
  (t) => [
    primaryKey({ name: 'members_pkey', columns: [t.organizationId, t.userId] }),
    index('members_user_idx').on(t.userId),
    check('members_role_check', sql`${t.role} in ('owner', 'admin', 'member', 'viewer')`),
  ],
)

/** A link that makes whoever opens it a member, once. Only the SHA-256 of its token is kept. */
export const invitations = pgTable(
  'invitations',
  {
    organizationId: organizationId(),
    id: text('id').notNull(),
    /** When set, only a person with this address, in lower case, can accept. */
    email: text('email'),
    role: text('role').$type<'owner' | 'admin' | 'member' | 'viewer'>().notNull(),
    tokenHash: text('token_hash').notNull().unique('invitations_token_hash_key'),
    invitedBy: text('invited_by').references(() => users.id, { onDelete: 'set null' }),
    createdAt: at('created_at').notNull().defaultNow(),
    expiresAt: at('expires_at').notNull(),
    acceptedAt: at('accepted_at'),
    acceptedBy: text('accepted_by').references(() => users.id, { onDelete: 'set null' }),
    revokedAt: at('revoked_at'),
  },
  (t) => [
    primaryKey({ name: 'invitations_pkey', columns: [t.organizationId, t.id] }),
    check('invitations_role_check', sql`${t.role} in ('owner', 'admin', 'member', 'viewer')`),
  ],
)

/** The link by which the first person of a fresh install becomes its owner. Only the SHA-256 of its token is kept. */
export const setupLinks = pgTable('setup_links', {
  tokenHash: text('token_hash').primaryKey(),
  createdAt: at('created_at').notNull().defaultNow(),
  expiresAt: at('expires_at').notNull(),
  usedAt: at('used_at'),
})

/** Only the SHA-256 of a key is kept; the key itself is shown once, when it is made. */
export const apiKeys = pgTable(
  'api_keys',
  {
    organizationId: organizationId(),
    id: text('id').notNull(),
    /** Whose key it is: it can never do more than this member may. Null: the organization's own. */
    userId: userId(),
    name: text('name').notNull(),
    tokenHash: text('token_hash').notNull().unique('api_keys_token_hash_key'),
    tokenPrefix: text('token_prefix').notNull(),
    /** Permissions, or `*` for all that the owner of the key has. */
    scopes: text('scopes').array().notNull().default(sql`'{*}'`),
    createdAt: at('created_at').notNull().defaultNow(),
    expiresAt: at('expires_at'),
    revokedAt: at('revoked_at'),
    /** Known to about a minute. */
    lastUsedAt: at('last_used_at'),
    /** The program that its member made it with: it ends when they take back what they gave the program. */
    clientId: text('client_id'),
    /** The key that took its place at a rotation. */
    replacedBy: text('replaced_by'),
  },
  (t) => [
    primaryKey({ name: 'api_keys_pkey', columns: [t.organizationId, t.id] }),
    index('api_keys_ended_idx').on(sql`least(${t.revokedAt}, ${t.expiresAt})`),
  ],
)
