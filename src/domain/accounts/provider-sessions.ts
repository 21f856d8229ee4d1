import type { Sql } from '../../db/client.ts'

/**
 * Whoever runs an organization's sign-in provider can sign in as any of its people. So such a provider is good for people
 * of that one organization alone, and for none of its owners: for others it must be refused, and who becomes a member
 * elsewhere, or an owner, loses the sessions that may have come from it.
 */
export async function mayUseProviderOf(
  sql: Sql,
  { organizationId, userId }: { organizationId: string; userId: string },
): Promise<boolean> {
  const others = await sql`
    select 1 from members
    where user_id = ${userId} and (organization_id <> ${organizationId} or role = 'owner') limit 1`
  return others.length === 0
}

/** Ends the sessions of a person with an identity at an organization's provider, but for the one that asks. */
export async function endProviderSessions(
  tx: Sql,
  { userId, exceptSessionId }: { userId: string; exceptSessionId?: string | undefined },
): Promise<void> {
  await tx`
    delete from user_sessions s
    where s.user_id = ${userId} and s.id <> ${exceptSessionId ?? ''} and exists (
      select 1 from user_accounts a join organization_sign_ins p on p.provider_id = a.provider_id
      where a.user_id = ${userId})`
}
