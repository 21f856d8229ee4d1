import type { Sql } from '../../db/client.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'

/** By what usage can be summed. */
export const USAGE_GROUPS = ['day', 'agent', 'model', 'user'] as const
export type UsageGroup = (typeof USAGE_GROUPS)[number]

/** Days of UTC, `2026-01-31`, both included. */
export interface UsageRange {
  from: string
  to: string
}

export interface UsageSums {
  /** Runs that have ended and had at least one answer of a model. */
  runs: number
  inputTokens: number
  outputTokens: number
  /** Part of the input tokens. */
  cachedInputTokens: number
  /** Millionths of a US dollar. */
  costMicros: number
  /** Runs that used a model without a price: their cost is not, or not all, in `costMicros`. */
  unpricedRuns: number
}

export interface UsageReport {
  rows: ({ key: string } & UsageSums)[]
  /** Continues behind the last row; null at the end. */
  nextCursor: string | null
  total: UsageSums
  /** Models of the range that have no price. */
  unpricedModels: string[]
}

const COLUMNS = { day: 'day', agent: 'agent_id', model: 'model', user: 'user_id' } as const

/** What was used in a range of days, summed by one of its sides, in the order of that. Running turns are part of it step by step. */
export async function readUsage(
  sql: Sql,
  args: UsageRange & { actor: Actor; group: UsageGroup; limit: number; after?: string | undefined },
): Promise<UsageReport> {
  requirePermission(args.actor, 'usage:read')
  const { organizationId } = args.actor
  const used = usedIn(sql, { organizationId, ...args })
  const key = sql`${sql(COLUMNS[args.group])}::text collate "C"`
  const [rows, [total], unpriced] = await Promise.all([
    sql<({ key: string } & UsageSums)[]>`
      select * from (select ${key} as key, ${sums(sql)} from (${used}) u where ${key} > ${args.after ?? ''} group by 1) g
      order by key limit ${args.limit}`,
    sql<UsageSums[]>`select ${sums(sql)} from (${used}) u`,
    sql<{ model: string }[]>`select distinct model from (${used}) u where unpriced order by model`,
  ])
  return {
    rows,
    nextCursor: rows.length === args.limit ? (rows.at(-1)?.key ?? null) : null,
    total: total!,
    unpricedModels: unpriced.map(({ model }) => model),
  }
}

/** What has been summed and what has not, as rows of one shape. Both lie in the same snapshot, so nothing is missed or doubled. */
function usedIn(sql: Sql, { organizationId, from, to }: UsageRange & { organizationId: string }) {
  return sql`
    select day, agent_id, model, user_id, runs, input_tokens, output_tokens, cached_input_tokens, cost_micros,
      unpriced_runs, unpriced_runs > 0 as unpriced
    from usage_days where organization_id = ${organizationId} and day between ${from}::date and ${to}::date
    union all
    select day, agent_id, model, user_id, 0, input_tokens, output_tokens, cached_input_tokens, coalesce(cost_micros, 0),
      0, cost_micros is null
    from usage_steps where organization_id = ${organizationId} and day between ${from}::date and ${to}::date`
}

function sums(sql: Sql) {
  return sql`coalesce(sum(runs), 0)::bigint as runs, coalesce(sum(input_tokens), 0)::bigint as "inputTokens",
    coalesce(sum(output_tokens), 0)::bigint as "outputTokens",
    coalesce(sum(cached_input_tokens), 0)::bigint as "cachedInputTokens",
    coalesce(sum(cost_micros), 0)::bigint as "costMicros", coalesce(sum(unpriced_runs), 0)::bigint as "unpricedRuns"`
}

export type UsageRow = UsageSums & { day: string; agentId: string; model: string; userId: string }

/** Rows read in one statement: a CSV of any length takes this much memory. */
const PAGE_ROWS = 1_000

/** All that was used in a range, one row for each day, agent, model and user, in that order. */
export async function* listUsage(sql: Sql, args: UsageRange & { actor: Actor }): AsyncGenerator<UsageRow[]> {
  requirePermission(args.actor, 'usage:read')
  for (let after: UsageRow | undefined; ; ) {
    const rows = await readPage(sql, args, after)
    if (rows.length > 0) yield rows
    if (rows.length < PAGE_ROWS) return
    after = rows.at(-1)
  }
}

/**
 * Each side gives its first rows by its own order, the sums by their primary key, so a page costs the same at the end
 * of a year as at its beginning.
 */
function readPage(sql: Sql, args: UsageRange & { actor: Actor }, after: UsageRow | undefined): Promise<UsageRow[]> {
  const range = sql`organization_id = ${args.actor.organizationId} and day between ${args.from}::date and ${args.to}::date
    ${after ? sql`and (day, agent_id, model, user_id) > (${after.day}::date, ${after.agentId}, ${after.model}, ${after.userId})` : sql``}`
  return sql<UsageRow[]>`
    select day::text, agent_id as "agentId", model, user_id as "userId", ${sums(sql)}
    from (
      (select day, agent_id, model, user_id, runs, input_tokens, output_tokens, cached_input_tokens, cost_micros,
        unpriced_runs from usage_days where ${range} order by day, agent_id, model, user_id limit ${PAGE_ROWS})
      union all
      (select day, agent_id, model, user_id, 0, sum(input_tokens), sum(output_tokens), sum(cached_input_tokens),
        coalesce(sum(cost_micros), 0), 0 from usage_steps where ${range}
        group by day, agent_id, model, user_id order by day, agent_id, model, user_id limit ${PAGE_ROWS})
    ) u
    group by u.day, agent_id, model, user_id order by u.day, agent_id, model, user_id limit ${PAGE_ROWS}`
}
