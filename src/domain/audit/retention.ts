import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { recordAudit } from './record.ts'

export interface AuditRetention {
  /** What the organization has set; null takes the gateway's setting. */
  days: number | null
  /** What holds. */
  inForceDays: number
}

/** How long the entries of the caller's organization are kept. */
export async function getAuditRetention(
  sql: Sql,
  { actor, defaultDays }: { actor: Actor; defaultDays: number },
): Promise<AuditRetention> {
  requirePermission(actor, 'audit:read')
  const [row] = await sql<{ days: number | null }[]>`
    select audit_keep_days as days from organization_limits where organization_id = ${actor.organizationId}`
  const days = row?.days ?? null
  return { days, inForceDays: days ?? defaultDays }
}

/** Sets it, for owners: who reads the log decides how long it is kept. The change itself is an entry. */
export async function setAuditRetention(
  sql: Sql,
  { actor, days, defaultDays }: { actor: Actor; days: number | null; defaultDays: number },
): Promise<AuditRetention> {
  requirePermission(actor, 'audit:read')
  const { organizationId } = actor
  await inTransaction(sql, async (tx) => {
    await tx`
      insert into organization_limits (organization_id, audit_keep_days) values (${organizationId}, ${days})
      on conflict (organization_id) do update set audit_keep_days = excluded.audit_keep_days, updated_at = now()`
    await recordAudit(tx, actor, {
      ...{ action: 'audit.retention_changed', targetKind: 'organization', targetId: organizationId },
      details: { days },
    })
  })
  return getAuditRetention(sql, { actor, defaultDays })
}
