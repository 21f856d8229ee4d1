import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { recordAudit } from '../audit/record.ts'
import type { Signals } from '../signals.ts'
import { requireFreeWord } from './create.ts'
import type { Organization } from './get.ts'
import { lockOrganization } from './lock.ts'

/**
 * Changes the name, or the slug and with it every path of the organization: nothing answers under the old one any more.
 * @throws AppError 'conflict' when the slug is taken or reserved.
 */
export async function updateOrganization(
  deps: { sql: Sql; signals: Signals },
  { actor, fields }: { actor: Actor; fields: { name?: string; slug?: string } },
): Promise<Organization> {
  requirePermission(actor, 'organization:write')
  const organization = await inTransaction(deps.sql, async (tx) => {
    const before = await lockOrganization(tx, actor.organizationId)
    if (fields.slug !== undefined && fields.slug !== before.slug) requireFreeWord(fields.slug)
    const [row] = await tx<Organization[]>`
      update organizations set name = ${fields.name ?? before.name}, slug = ${fields.slug ?? before.slug}
      where id = ${actor.organizationId} returning id, slug, name, created_at as "createdAt"`.catch(explainTaken)
    const details = { before, after: { name: row!.name, slug: row!.slug } }
    const target = { targetKind: 'organization', targetId: actor.organizationId, details }
    await recordAudit(tx, actor, { action: 'organization.updated', ...target })
    return row!
  })
  deps.signals.accessChanged()
  return organization
}

/** Slugs of other organizations cannot be seen from this one; the unique index sees them. */
function explainTaken(error: { code?: string }): never {
  if (error.code === '23505') throw new AppError('conflict', 'This slug is taken', { cause: error })
  throw error
}
