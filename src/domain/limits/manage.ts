import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { recordAudit } from '../audit/record.ts'
import type { Signals } from '../signals.ts'
import { type MonthUsage, readMonth } from './budget.ts'
import { type DefaultLimits, type Limits, limitsInForce, readOwnLimits } from './limits.ts'

export interface LimitsView {
  /** What is set for this organization; null takes the gateway's setting. */
  limits: Limits
  inForce: Limits
  used: MonthUsage & { runsActive: number }
}

/** The limits of the caller's organization, and what is used of them. */
export async function getLimits(sql: Sql, { actor }: { actor: Actor }, defaults: DefaultLimits): Promise<LimitsView> {
  requirePermission(actor, 'usage:read')
  const { organizationId } = actor
  const limits = await readOwnLimits(sql, organizationId)
  const used = await readMonth(sql, organizationId)
  const [active] = await sql<{ runs: number }[]>`
    select count(*)::int as runs from runs where organization_id = ${organizationId} and state = 'running'`
  return { limits, inForce: limitsInForce(limits, defaults), used: { ...used, runsActive: active!.runs } }
}

/**
 * Replaces the limits of the caller's organization. In force on every replica at once, for what begins from now on: runs
 * that are running go on, and a turn meets a budget before its next step.
 *
 * An organization may not give itself more than the gateway's settings give everybody. What an operator has written into
 * the table for it stays possible.
 *
 * @throws AppError 'invalid_request'
 */
export async function setLimits(
  deps: { sql: Sql; signals: Signals },
  { actor, limits }: { actor: Actor; limits: Limits },
  defaults: DefaultLimits,
): Promise<LimitsView> {
  requirePermission(actor, 'limits:write')
  const { organizationId } = actor
  await inTransaction(deps.sql, async (tx) => {
    await tx`
      insert into organization_limits (organization_id) values (${organizationId}) on conflict do nothing`
    await tx`select 1 from organization_limits where organization_id = ${organizationId} for update`
    const before = await readOwnLimits(tx, organizationId)
    refuseAboveSettings(limits, before, defaults)
    await tx`
      update organization_limits set requests_per_minute = ${limits.requestsPerMinute},
        key_requests_per_minute = ${limits.keyRequestsPerMinute}, runs_max = ${limits.runsMax},
        tokens_per_month = ${limits.tokensPerMonth}, cost_micros_per_month = ${limits.costMicrosPerMonth}, updated_at = now()
      where organization_id = ${organizationId}`
    // Who changes a budget wants to be told of the new one as well.
    if (before.tokensPerMonth !== limits.tokensPerMonth || before.costMicrosPerMonth !== limits.costMicrosPerMonth) {
      await tx`
        update usage_months set warned_at = null
        where organization_id = ${organizationId} and month = date_trunc('month', now() at time zone 'utc')::date`
    }
    await recordAudit(tx, actor, {
      ...{ action: 'limits.changed', targetKind: 'organization', targetId: organizationId },
      details: { before, after: limits },
    })
  })
  deps.signals.accessChanged()
  return getLimits(deps.sql, { actor }, defaults)
}

function refuseAboveSettings(limits: Limits, before: Limits, defaults: DefaultLimits) {
  for (const name of ['requestsPerMinute', 'keyRequestsPerMinute', 'runsMax'] as const) {
    const value = limits[name]
    const most = defaults[name]
    if (value === null || most === null || value <= most || value === before[name]) continue
    throw new AppError('invalid_request', `${name}: this gateway allows ${most} at most`)
  }
}
