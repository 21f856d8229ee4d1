import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { type ApiKeyFields, createApiKey } from '../accounts/api-keys.ts'
import type { Role } from '../accounts/permissions.ts'
import { recordAudit } from '../audit/record.ts'
import { requireRoom } from '../limits/room.ts'
import { type ApiKey, keyColumns } from './list.ts'
import { findProgram, refuseOrganizationKey } from './maker.ts'
import { reachesAllKeys } from './reach.ts'
import { parseScopes, requireScopes } from './scopes.ts'

/** A key with itself, which is shown once. */
export interface MadeKey extends ApiKey {
  token: string
}

export interface CreateKey {
  actor: Actor
  name: string
  /** Words with spaces between them, or `*`. */
  scope: string
  expiresAt: Date | null
  /** The organization's own, which outlives the membership of whoever made it. */
  ofOrganization: boolean
}

/**
 * Makes an API key of the caller, or of the organization.
 * @throws AppError 'forbidden' for scopes beyond the caller's own, and for a key of the organization to who is no admin, or a program;
 *   'invalid_request' for unknown scopes or an expiry that has passed; 'limit_reached'.
 */
export async function createKey(sql: Sql, args: CreateKey): Promise<MadeKey> {
  const { actor, name, expiresAt } = args
  requirePermission(actor, 'keys:write')
  const scopes = parseScopes(args.scope)
  const owner = ownerOf(actor, args)
  requireScopes(actor, { scopes, role: owner.role })
  if (expiresAt !== null && expiresAt.getTime() <= Date.now()) {
    throw new AppError('invalid_request', 'expires_at: has passed already')
  }
  const fields = { organizationId: actor.organizationId, userId: owner.userId, name, scopes, expiresAt }
  return inTransaction(sql, async (tx) => {
    await requireRoom(tx, { organizationId: actor.organizationId, of: 'keys' })
    const clientId = await findProgram(tx, actor)
    if (owner.userId === null) refuseOrganizationKey(clientId)
    const key = await makeKey(tx, { ...fields, clientId })
    const details = { name, scope: scopes.join(' '), prefix: key.tokenPrefix, expiresAt, userId: owner.userId }
    await recordAudit(tx, actor, { action: 'key.created', targetKind: 'key', targetId: key.id, details })
    return key
  })
}

/** Part of the caller's transaction. */
export async function makeKey(tx: Sql, fields: ApiKeyFields): Promise<MadeKey> {
  const { id, token } = await createApiKey(tx, fields)
  const [row] = await tx<ApiKey[]>`
    select ${keyColumns(tx)} from api_keys where organization_id = ${fields.organizationId} and id = ${id}`
  return { ...row!, token }
}

/** A key of the organization that makes one makes one of the organization again. */
function ownerOf(actor: Actor, { ofOrganization }: CreateKey): { userId: string | null; role: Role } {
  const isPerson = actor.userId !== actor.credentialId
  if (isPerson && !ofOrganization) return { userId: actor.userId, role: actor.role ?? 'viewer' }
  if (!reachesAllKeys(actor)) throw new AppError('forbidden', 'Only admins make keys of the organization')
  return { userId: null, role: 'admin' }
}
