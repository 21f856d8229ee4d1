import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { enforceEverywhere } from '../accounts/access.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import type { Role } from '../accounts/permissions.ts'
import { recordAudit } from '../audit/record.ts'
import type { Signals } from '../signals.ts'
import { type MadeKey, makeKey } from './create.ts'
import { type ApiKey, keyColumns } from './list.ts'
import { findProgram, refuseOrganizationKey } from './maker.ts'
import { reachableKeys } from './reach.ts'
import { requireScopes } from './scopes.ts'

/**
 * Makes a key that takes the place of another: same name, owner and scopes, and as long a life as that one had from its
 * making. The old one works for `overlapMs` more, with the session tokens made with it; without an overlap it is refused
 * everywhere when this returns.
 *
 * Whoever rotates a key holds the new one, so it is for its owner, and admins for those of the organization: others'
 * keys can only be revoked.
 * @throws AppError 'not_found', 'forbidden', 'conflict' when it was rotated before.
 */
export async function rotateKey(
  deps: { sql: Sql; signals: Signals },
  { actor, keyId, overlapMs }: { actor: Actor; keyId: string; overlapMs: number },
): Promise<MadeKey> {
  requirePermission(actor, 'keys:write')
  const made = await inTransaction(deps.sql, async (tx) => {
    const old = await lockKey(tx, { actor, keyId })
    const role: Role = old.userId === null ? 'admin' : (actor.role ?? 'viewer')
    requireScopes(actor, { scopes: old.scopes, role })
    const expiresAt = old.lifeMs === null ? null : new Date(Date.now() + old.lifeMs)
    const { name, scopes, userId } = old
    const program = await findProgram(tx, actor)
    if (userId === null) refuseOrganizationKey(program)
    const fields = { organizationId: actor.organizationId, userId, name, scopes, expiresAt }
    const key = await makeKey(tx, { ...fields, clientId: program ?? old.clientId })
    await tx`
      update api_keys set replaced_by = ${key.id},
        expires_at = least(expires_at, now() + ${overlapMs} * interval '1 millisecond')
      where organization_id = ${actor.organizationId} and id = ${keyId}`
    const details = { name, replacedBy: key.id, prefix: key.tokenPrefix, overlapSeconds: overlapMs / 1000 }
    await recordAudit(tx, actor, { action: 'key.rotated', targetKind: 'key', targetId: keyId, details })
    return key
  })
  if (overlapMs === 0) await enforceEverywhere(deps.signals)
  return made
}

type OldKey = ApiKey & { clientId: string | null; lifeMs: number | null }

async function lockKey(tx: Sql, { actor, keyId }: { actor: Actor; keyId: string }): Promise<OldKey> {
  const [key] = await tx<OldKey[]>`
    select ${keyColumns(tx)}, client_id as "clientId", (extract(epoch from expires_at - created_at) * 1000)::float8 as "lifeMs"
    from api_keys
    where ${reachableKeys(tx, actor)} and id = ${keyId} and revoked_at is null
      and (expires_at is null or expires_at > now())
    for update`
  if (!key) throw new AppError('not_found', 'No such key')
  if (key.replacedBy !== null)
    throw new AppError('conflict', 'This key has been rotated; rotate the one that replaced it')
  if (key.userId !== null && key.userId !== actor.userId) {
    throw new AppError('forbidden', 'Only the owner of a key can rotate it; you can revoke it')
  }
  return key
}
