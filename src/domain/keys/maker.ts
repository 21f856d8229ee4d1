import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import type { Actor } from '../accounts/actor.ts'

/**
 * The program behind whoever makes a key: the OAuth client itself, or that of the key which makes another one. Null where a
 * person acts for themselves. Part of the transaction that makes the key.
 */
export async function findProgram(tx: Sql, actor: Actor): Promise<string | null> {
  if (actor.kind === 'client') return actor.credentialId
  if (actor.kind !== 'key') return null
  const [key] = await tx<{ clientId: string | null }[]>`
    select client_id as "clientId" from api_keys
    where organization_id = ${actor.organizationId} and id = ${actor.credentialId}`
  return key?.clientId ?? null
}

/**
 * A key of the organization outlives the membership of whoever made it, and so would outlive what a program was given.
 * @throws AppError 'forbidden'
 */
export function refuseOrganizationKey(program: string | null): void {
  if (program === null) return
  throw new AppError('forbidden', 'A program cannot make keys of the organization; a person can, signed in')
}

/** Ends the keys that a program made for a person, in the transaction that ends what it was given. Returns how many. */
export async function revokeKeysOfProgram(
  tx: Sql,
  { clientId, userId }: { clientId: string; userId: string },
): Promise<number> {
  const rows = await tx`
    update api_keys set revoked_at = now()
    where client_id = ${clientId} and user_id = ${userId} and revoked_at is null returning 1`
  return rows.length
}
