import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import type { Logger } from '../../lib/logger.ts'
import { createLoop, type Loop } from '../../lib/loop.ts'
import { recordAudit } from '../audit/record.ts'

/** Runs summed up in one statement at most, so that none of them takes long. */
const RUNS_MAX = 500
/** Part of a budget at which its people are told. */
const WARN_AT = 0.8

interface Warning {
  organizationId: string
  month: string
  tokens: number
  costMicros: number
  tokensPerMonth: number | null
  costMicrosPerMonth: number | null
}

/**
 * Sums up what ended runs have used, by day and by month, and says once when an organization has used most of its budget.
 * Every replica does this; what one of them has summed is gone for the others.
 */
export function createUsageRollUp({ sql, log }: { sql: Sql; log: Logger }, { everyMs }: { everyMs: number }): Loop {
  return createLoop(
    { log },
    {
      name: 'usage',
      everyMs,
      async pass() {
        const waiting = await sql`select 1 from usage_steps limit 1`
        if (waiting.length === 0) return false
        const { summed, warnings } = await rollUpUsage(sql)
        for (const warning of warnings) log.warn({ ...warning }, 'an organization has used most of its budget')
        return summed === RUNS_MAX
      },
    },
  )
}

/**
 * One pass: moves the steps of ended runs into the sums, in one transaction, so that whoever reads both in one statement
 * finds each step in exactly one of them.
 *
 * Only when its run has ended, or is gone with its conversation, is a step's row taken away: from then on `saveStep`
 * refuses the run, so no repetition of the step can make the row again.
 */
export function rollUpUsage(sql: Sql): Promise<{ summed: number; warnings: Warning[] }> {
  return inTransaction(sql, async (tx) => {
    // One at a time: two that lock the same sums in another order would wait for each other.
    const [turn] = await tx<{ mine: boolean }[]>`
      select pg_try_advisory_xact_lock(hashtext('lobu'), hashtext('usage')) as mine`
    if (!turn!.mine) return { summed: 0, warnings: [] }
    const months = await sumUp(tx)
    const summed = months.reduce((sum, month) => sum + month.runs, 0)
    const warnings = summed === 0 ? [] : await takeWarnings(tx, months)
    for (const { organizationId, ...details } of warnings) await auditWarning(tx, organizationId, details)
    return { summed, warnings }
  })
}

type Month = { organizationId: string; month: string; runs: number }

/**
 * A run counts once, where its last step counts. Steps of organizations that are gone are taken away uncounted. The
 * steps of open runs are looked at and left, each by a look-up in the primary key of runs; they are as many as turns run.
 */
function sumUp(tx: Sql): Promise<Month[]> {
  return tx<Month[]>`
    with done as materialized (
      select s.organization_id, s.run_id from usage_steps s
      where not exists (select 1 from runs r where r.organization_id = s.organization_id and r.id = s.run_id
        and r.state in ('queued', 'ready', 'delayed', 'running'))
      group by s.organization_id, s.run_id limit ${RUNS_MAX}
    ), taken as (
      delete from usage_steps s using done d
      where s.organization_id = d.organization_id and s.run_id = d.run_id
      returning s.*
    ), placed as materialized (
      select t.*,
        row_number() over (partition by t.organization_id, t.run_id order by t.fence desc, t.step desc) = 1 as is_last,
        bool_or(t.cost_micros is null) over (partition by t.organization_id, t.run_id) as is_unpriced
      from taken t join organizations o on o.id = t.organization_id
    ), days as (
      insert into usage_days as d (organization_id, day, agent_id, model, user_id, runs, input_tokens, output_tokens,
        cached_input_tokens, cost_micros, unpriced_runs)
      select organization_id, day, agent_id, model, user_id, count(*) filter (where is_last), sum(input_tokens),
        sum(output_tokens), sum(cached_input_tokens), coalesce(sum(cost_micros), 0),
        count(*) filter (where is_last and is_unpriced)
      from placed group by organization_id, day, agent_id, model, user_id
      on conflict (organization_id, day, agent_id, model, user_id) do update set
        runs = d.runs + excluded.runs, input_tokens = d.input_tokens + excluded.input_tokens,
        output_tokens = d.output_tokens + excluded.output_tokens,
        cached_input_tokens = d.cached_input_tokens + excluded.cached_input_tokens,
        cost_micros = d.cost_micros + excluded.cost_micros, unpriced_runs = d.unpriced_runs + excluded.unpriced_runs
    ), sums as materialized (
      select organization_id, date_trunc('month', day)::date as month, count(*) filter (where is_last)::int as runs,
        sum(input_tokens + output_tokens) as tokens, coalesce(sum(cost_micros), 0) as cost_micros
      from placed group by 1, 2
    ), months as (
      insert into usage_months as m (organization_id, month, tokens, cost_micros)
      select organization_id, month, tokens, cost_micros from sums
      on conflict (organization_id, month) do update set
        tokens = m.tokens + excluded.tokens, cost_micros = m.cost_micros + excluded.cost_micros
    )
    select organization_id as "organizationId", month::text as month, runs from sums`
}

/** Marks the running months that have passed the bound since the last look, and returns them. */
function takeWarnings(tx: Sql, months: Month[]): Promise<Warning[]> {
  return tx<Warning[]>`
    update usage_months m set warned_at = now()
    from organization_limits l
    where l.organization_id = m.organization_id and m.warned_at is null
      and m.organization_id = any(${months.map((one) => one.organizationId)}::text[])
      and m.month = date_trunc('month', now() at time zone 'utc')::date
      and (m.tokens >= l.tokens_per_month * ${WARN_AT}::float8
        or m.cost_micros >= l.cost_micros_per_month * ${WARN_AT}::float8)
    returning m.organization_id as "organizationId", m.month::text as month, m.tokens, m.cost_micros as "costMicros",
      l.tokens_per_month as "tokensPerMonth", l.cost_micros_per_month as "costMicrosPerMonth"`
}

function auditWarning(tx: Sql, organizationId: string, details: Omit<Warning, 'organizationId'>) {
  return recordAudit(
    tx,
    { kind: 'system', credentialId: 'gateway', organizationId, userId: '' },
    { action: 'budget.nearly_used', targetKind: 'organization', targetId: organizationId, details: { ...details } },
  )
}
