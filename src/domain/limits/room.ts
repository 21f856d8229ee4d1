import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'

/** How many of each an organization may have: far more than people look after, and so few that a script gone wild is stopped. */
export const ROOM = {
  agents: 1_000,
  keys: 1_000,
  invitations: 500,
} as const

type Count = { count: number }[]

/**
 * Part of the transaction that makes one more, before it is made. Holds the organization's row, so that of any number that
 * come at once just as many are let in as there is room for.
 * @throws AppError 'limit_reached'
 */
export async function requireRoom(
  tx: Sql,
  { organizationId, of }: { organizationId: string; of: keyof typeof ROOM },
): Promise<void> {
  await tx`select 1 from organizations where id = ${organizationId} for no key update`
  const counted = {
    agents: tx<Count>`select count(*)::int as count from agents where organization_id = ${organizationId}`,
    keys: tx<Count>`
      select count(*)::int as count from api_keys
      where organization_id = ${organizationId} and revoked_at is null and (expires_at is null or expires_at > now())`,
    invitations: tx<Count>`
      select count(*)::int as count from invitations
      where organization_id = ${organizationId} and accepted_at is null and revoked_at is null and expires_at > now()`,
  }
  const [row] = await counted[of]
  if (row!.count < ROOM[of]) return
  throw new AppError('limit_reached', `An organization can have ${ROOM[of]} ${of}; remove some first`)
}
