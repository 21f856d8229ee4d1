/** What an organization keeps secret, may spend, has spent, and has done. */
import { sql } from 'drizzle-orm'
import {
  check,
  date,
  doublePrecision,
  index,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  text,
  uuid,
} from 'drizzle-orm/pg-core'
import type { StepFinish } from '../shapes.ts'
import { organizationId, users } from './accounts.ts'
import { at, int8 } from './columns.ts'

/**
 * Values that only the gateway may read. `agentId` is empty for what the whole organization shares.
 * Kinds: `secret`, named by `${secret:NAME}` in settings; `provider`, the key of a model provider; `oidc`, a client secret.
 */
export const secrets = pgTable(
  'secrets',
  {
    organizationId: organizationId(),
    agentId: text('agent_id').notNull().default(''),
    kind: text('kind').$type<'secret' | 'provider' | 'oidc'>().notNull(),
    name: text('name').notNull(),
    /** Encrypted: `v1.<key id>.<base64url>`, bound to its row. */
    sealed: text('sealed').notNull(),
    /** Key that sealed it; what an old one sealed is sealed again by `lobu secrets rotate`. */
    keyId: text('key_id').notNull(),
    /** Hosts that it may be sent to (`host`, `host:port` or `.suffix`). None: what the agent's own settings say. */
    allowedHosts: text('allowed_hosts').array().notNull().default(sql`'{}'`),
    createdAt: at('created_at').notNull().defaultNow(),
    updatedAt: at('updated_at').notNull().defaultNow(),
  },
  (t) => [
    primaryKey({ name: 'secrets_pkey', columns: [t.organizationId, t.agentId, t.kind, t.name] }),
    index('secrets_key_idx').on(t.keyId),
    check('secrets_kind_check', sql`${t.kind} in ('secret', 'provider', 'oidc')`),
  ],
)

/** A known sentence sealed by each key in use: a gateway with the wrong key finds out at its start. */
export const encryptionCanaries = pgTable('encryption_canaries', {
  keyId: text('key_id').primaryKey(),
  sealed: text('sealed').notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
})

/** Where people of an organization sign in besides what the environment offers. The client's secret is in `secrets`. */
export const organizationSignIns = pgTable(
  'organization_sign_ins',
  {
    organizationId: organizationId(),
    /** Part of the callback URL, so unique over all organizations. */
    providerId: text('provider_id').notNull().unique('organization_sign_ins_provider_id_key'),
    name: text('name').notNull(),
    issuer: text('issuer').notNull(),
    clientId: text('client_id').notNull(),
    /** People who come from here become members with this role. */
    role: text('role').$type<'admin' | 'member' | 'viewer'>().notNull().default('member'),
    createdAt: at('created_at').notNull().defaultNow(),
  },
  (t) => [primaryKey({ name: 'organization_sign_ins_pkey', columns: [t.organizationId, t.providerId] })],
)

/** What an organization may use. Null: no limit of its own. */
export const organizationLimits = pgTable(
  'organization_limits',
  {
    organizationId: organizationId().primaryKey(),
    requestsPerMinute: integer('requests_per_minute'),
    keyRequestsPerMinute: integer('key_requests_per_minute'),
    runsMax: integer('runs_max'),
    tokensPerMonth: int8('tokens_per_month'),
    /** Millionths of a US dollar. */
    costMicrosPerMonth: int8('cost_micros_per_month'),
    auditKeepDays: integer('audit_keep_days'),
    updatedAt: at('updated_at').notNull().defaultNow(),
  },
  (t) => [index('organization_limits_runs_idx').on(t.organizationId).where(sql`${t.runsMax} is not null`)],
)

/** Token buckets, shared by all replicas. `subject` is `organization`, or `key:` and the key's id. */
export const rateBuckets = pgTable(
  'rate_buckets',
  {
    organizationId: organizationId(),
    subject: text('subject').notNull(),
    tokens: doublePrecision('tokens').notNull(),
    refilledAt: at('refilled_at').notNull(),
  },
  (t) => [primaryKey({ name: 'rate_buckets_pkey', columns: [t.organizationId, t.subject] })],
)

/** Sums by day (UTC), agent, model and user. Days of removed agents and users stay. */
export const usageDays = pgTable(
  'usage_days',
  {
    organizationId: organizationId(),
    day: date('day', { mode: 'string' }).notNull(),
    agentId: text('agent_id').notNull(),
    model: text('model').notNull(),
    userId: text('user_id').notNull(),
    runs: int8('runs').notNull().default(0),
    inputTokens: int8('input_tokens').notNull().default(0),
    outputTokens: int8('output_tokens').notNull().default(0),
    cachedInputTokens: int8('cached_input_tokens').notNull().default(0),
    /** Millionths of a US dollar, by the price at the time; runs of models without a price are in `unpricedRuns`. */
    costMicros: int8('cost_micros').notNull().default(0),
    unpricedRuns: int8('unpriced_runs').notNull().default(0),
  },
  (t) => [
    primaryKey({ name: 'usage_days_pkey', columns: [t.organizationId, t.day, t.agentId, t.model, t.userId] }),
    index('usage_days_day_idx').on(t.day),
  ],
)

/**
 * What each saved step used, until its run has ended and it is summed into `usage_days` and `usage_months`. Written with
 * the step; names the run without a foreign key, because a removed conversation was paid for all the same.
 */
export const usageSteps = pgTable(
  'usage_steps',
  {
    /** No foreign key: every step of an organization would lock the organization's one row. */
    organizationId: text('organization_id').notNull(),
    runId: uuid('run_id').notNull(),
    fence: int8('fence').notNull(),
    step: integer('step').notNull(),
    /** UTC. */
    day: date('day', { mode: 'string' }).notNull(),
    agentId: text('agent_id').notNull(),
    model: text('model').notNull(),
    userId: text('user_id').notNull(),
    inputTokens: int8('input_tokens').notNull(),
    outputTokens: int8('output_tokens').notNull(),
    cachedInputTokens: int8('cached_input_tokens').notNull(),
    /** Null: the model has no price. */
    costMicros: int8('cost_micros'),
    /** How the turn stands behind it, for whoever takes it up. Null: saved by an earlier release. */
    finish: text('finish').$type<StepFinish>(),
  },
  (t) => [primaryKey({ name: 'usage_steps_pkey', columns: [t.organizationId, t.runId, t.fence, t.step] })],
)

/** The same sums by month (UTC), for budgets: one row is read where days would be thousands. */
export const usageMonths = pgTable(
  'usage_months',
  {
    organizationId: organizationId(),
    /** Its first day. */
    month: date('month', { mode: 'string' }).notNull(),
    tokens: int8('tokens').notNull().default(0),
    costMicros: int8('cost_micros').notNull().default(0),
    /** When it was said that the budget is nearly used up; null again when the budget is changed. */
    warnedAt: at('warned_at'),
  },
  (t) => [primaryKey({ name: 'usage_months_pkey', columns: [t.organizationId, t.month] })],
)

/** Who did what to what, from where. Rows are only added; retention alone removes them. */
export const auditLog = pgTable(
  'audit_log',
  {
    organizationId: organizationId(),
    /** UUID of version 7: in the order of time. */
    id: uuid('id').notNull(),
    at: at('at').notNull().defaultNow(),
    /** `user`, `key`, `session`, `client` or `system`. */
    actorKind: text('actor_kind').notNull(),
    actorId: text('actor_id').notNull(),
    userId: text('user_id').references(() => users.id, { onDelete: 'set null' }),
    action: text('action').notNull(),
    targetKind: text('target_kind').notNull(),
    targetId: text('target_id').notNull(),
    ip: text('ip'),
    userAgent: text('user_agent'),
    requestId: text('request_id'),
    /** Never a secret, a token or message text. */
    details: jsonb('details').notNull().default({}),
  },
  (t) => [
    primaryKey({ name: 'audit_log_pkey', columns: [t.organizationId, t.id] }),
    index('audit_log_at_idx').on(t.at),
    check('audit_log_details_check', sql`jsonb_typeof(${t.details}) = 'object'`),
  ],
)
