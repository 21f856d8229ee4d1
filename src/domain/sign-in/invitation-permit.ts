import type { Sql } from '../../db/client.ts'
import { sha256 } from '../../lib/ids.ts'
import type { Role } from '../accounts/permissions.ts'

/** An invitation that can still be accepted, as its holder may see it. */
export interface OpenInvitation {
  organizationName: string
  organizationSlug: string
  role: Role
  /** Only a person with this address can accept; null: anybody who has the link. */
  email: string | null
}

/** The invitation of that link; null when there is none, or it was used, withdrawn or has expired. */
export async function findOpenInvitation(sql: Sql, token: string): Promise<OpenInvitation | null> {
  const [row] = await sql<OpenInvitation[]>`
    select o.name as "organizationName", o.slug as "organizationSlug", i.role, i.email
    from invitations i join organizations o on o.id = i.organization_id
    where i.token_hash = ${sha256(token)} and i.accepted_at is null and i.revoked_at is null and i.expires_at > now()`
  return row ?? null
}
