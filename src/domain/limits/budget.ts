import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import type { LimitBook, Limits } from './limits.ts'

/** What an organization has used in the running calendar month of UTC. */
export interface MonthUsage {
  /** `2026-01` */
  month: string
  tokens: number
  /** Millionths of a US dollar. */
  costMicros: number
  secondsLeft: number
}

/** A budget that is used up. */
export interface ExhaustedBudget {
  message: string
  secondsLeft: number
}

export interface Budgets {
  /** The budget that is used up, if one is. Asks the database only for organizations that have one. */
  findExhausted(organizationId: string): Promise<ExhaustedBudget | null>
}

/** A client that waits for the next month asks once a day whether somebody has raised the budget. */
const RETRY_SECONDS_MAX = 86_400

export function createBudgets({ sql, limits }: { sql: Sql; limits: LimitBook }): Budgets {
  return {
    async findExhausted(organizationId) {
      const { tokensPerMonth, costMicrosPerMonth } = await limits.of(organizationId)
      if (tokensPerMonth === null && costMicrosPerMonth === null) return null
      return judge(await readMonth(sql, organizationId), { tokensPerMonth, costMicrosPerMonth })
    },
  }
}

function judge(
  used: MonthUsage,
  { tokensPerMonth, costMicrosPerMonth }: Pick<Limits, 'tokensPerMonth' | 'costMicrosPerMonth'>,
): ExhaustedBudget | null {
  const { month, secondsLeft } = used
  if (tokensPerMonth !== null && used.tokens >= tokensPerMonth) {
    return { message: `The organization's token budget for ${month} is used up`, secondsLeft }
  }
  if (costMicrosPerMonth !== null && used.costMicros >= costMicrosPerMonth) {
    return { message: `The organization's cost budget for ${month} is used up`, secondsLeft }
  }
  return null
}

/** How a request is refused for which there is no budget left. */
export function budgetExhausted({ message, secondsLeft }: ExhaustedBudget): AppError {
  return new AppError('budget_exhausted', message, { retryAfterSeconds: Math.min(secondsLeft, RETRY_SECONDS_MAX) })
}

/**
 * What was used this month: its sum, and the steps that are not summed yet, in one snapshot. One row by its key, and as
 * many as turns run, by the first column of theirs.
 */
export async function readMonth(sql: Sql, organizationId: string): Promise<MonthUsage> {
  const [row] = await sql<MonthUsage[]>`
    with this as (select date_trunc('month', now() at time zone 'utc') as month)
    select to_char(t.month, 'YYYY-MM') as month, (coalesce(m.tokens, 0) + s.tokens)::bigint as tokens,
      (coalesce(m.cost_micros, 0) + s.cost)::bigint as "costMicros",
      ceil(extract(epoch from t.month + interval '1 month' - (now() at time zone 'utc')))::int as "secondsLeft"
    from this t
    left join usage_months m on m.organization_id = ${organizationId} and m.month = t.month::date
    cross join lateral (
      select coalesce(sum(input_tokens + output_tokens), 0) as tokens, coalesce(sum(cost_micros), 0) as cost
      from usage_steps u where u.organization_id = ${organizationId} and u.day >= t.month::date
    ) s`
  return row!
}
