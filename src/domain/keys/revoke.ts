import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { enforceEverywhere } from '../accounts/access.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { recordAudit } from '../audit/record.ts'
import type { Signals } from '../signals.ts'
import { reachableKeys } from './reach.ts'

/**
 * Revokes a key and with it the session tokens made with it. When this returns no replica accepts any of them.
 * @throws AppError 'not_found' for a key that the caller cannot see, or that was revoked before.
 */
export async function revokeKey(
  deps: { sql: Sql; signals: Signals },
  { actor, keyId }: { actor: Actor; keyId: string },
): Promise<void> {
  requirePermission(actor, 'keys:write')
  await inTransaction(deps.sql, async (tx) => {
    const [row] = await tx<{ name: string; prefix: string }[]>`
      update api_keys set revoked_at = now()
      where ${reachableKeys(tx, actor)} and id = ${keyId} and revoked_at is null
      returning name, token_prefix as prefix`
    if (!row) throw new AppError('not_found', 'No such key')
    await recordAudit(tx, actor, { action: 'key.revoked', targetKind: 'key', targetId: keyId, details: row })
  })
  await enforceEverywhere(deps.signals)
}

/** Ends all keys of a member who goes, in the transaction that ends the membership. */
export async function revokeKeysOf(
  tx: Sql,
  { organizationId, userId }: { organizationId: string; userId: string },
): Promise<void> {
  await tx`
    update api_keys set revoked_at = now()
    where organization_id = ${organizationId} and user_id = ${userId} and revoked_at is null`
}
