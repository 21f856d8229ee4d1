import type { Sql } from '../../db/client.ts'
import { csvLine } from '../../lib/csv.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { type AuditFilter, type AuditRecord, listAudit } from './list.ts'
import { recordAudit } from './record.ts'

const PAGE = 500
const COLUMNS = [
  ...['at', 'action', 'target_kind', 'target_id', 'actor_kind', 'actor_id', 'user_id', 'user_email'],
  ...['ip', 'user_agent', 'request_id', 'details', 'id'],
]

/**
 * The audit log as CSV, newest first, a page in each piece: it is read as fast as it is taken, and never held whole.
 * That it was exported is on record before the first piece.
 * @throws AppError 'forbidden' to all but owners, before anything is read.
 */
export async function exportAudit(
  sql: Sql,
  { actor, filter }: { actor: Actor; filter: AuditFilter },
): Promise<AsyncGenerator<string, void>> {
  requirePermission(actor, 'audit:read')
  const target = { targetKind: 'organization', targetId: actor.organizationId }
  await recordAudit(sql, actor, { action: 'audit.exported', ...target, details: { ...filter } })
  return pages()

  async function* pages() {
    yield csvLine(COLUMNS)
    let after: string | undefined
    for (;;) {
      const page = await listAudit(sql, { actor, limit: PAGE, after, ...filter })
      if (page.length > 0) yield page.map(toLine).join('')
      after = page.at(-1)?.id
      if (page.length < PAGE) return
    }
  }
}

function toLine(entry: AuditRecord): string {
  const { at, action, targetKind, targetId, actorKind, actorId, userId, userEmail, ip, userAgent, requestId } = entry
  return csvLine([
    ...[at.toISOString(), action, targetKind, targetId, actorKind, actorId, userId, userEmail],
    ...[ip, userAgent, requestId, JSON.stringify(entry.details), entry.id],
  ])
}
