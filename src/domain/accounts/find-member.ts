import type { Sql } from '../../db/client.ts'
import type { Actor } from './actor.ts'
import { permissionsWithin, type Role } from './permissions.ts'

/**
 * What a person may do in an organization; null when they are no member of it, when `sessionId` is given and they have
 * signed out of it, or when `clientId` is given and the program has nothing of them any more. What is taken back from a
 * program is deleted; a token that was rotated a moment ago still stands for what it was given.
 */
export async function findMember(
  sql: Sql,
  args: { organizationId: string; userId: string; sessionId?: string | undefined; clientId?: string | undefined },
): Promise<Actor | null> {
  const { organizationId, userId, sessionId, clientId } = args
  const [row] = await sql<{ slug: string; role: Role }[]>`
    select o.slug, m.role from members m join organizations o on o.id = m.organization_id
    where m.organization_id = ${organizationId} and m.user_id = ${userId}
      ${sessionId === undefined ? sql`` : isSignedIn(sql, { sessionId, userId })}
      ${clientId === undefined ? sql`` : isLetIn(sql, { clientId, userId })}`
  if (!row) return null
  return {
    ...{ kind: 'user', credentialId: userId, userId, organizationId, organizationSlug: row.slug, role: row.role },
    permissions: permissionsWithin(row.role, ['*']),
  }
}

function isSignedIn(sql: Sql, { sessionId, userId }: { sessionId: string; userId: string }) {
  return sql`and exists (
    select 1 from user_sessions s where s.id = ${sessionId} and s.user_id = ${userId} and s.expires_at > now())`
}

/** Served by the indexes of both tables on the person. */
function isLetIn(sql: Sql, { clientId, userId }: { clientId: string; userId: string }) {
  return sql`and exists (select 1 from oauth_clients c where c.client_id = ${clientId} and c.disabled is not true)
    and (exists (
      select 1 from oauth_access_tokens t
      where t.user_id = ${userId} and t.client_id = ${clientId} and t.expires_at > now() and t.revoked is null)
    or exists (
      select 1 from oauth_refresh_tokens t
      where t.user_id = ${userId} and t.client_id = ${clientId} and t.expires_at > now()
        and (t.revoked is null or t.rotated_at is not null)))`
}
