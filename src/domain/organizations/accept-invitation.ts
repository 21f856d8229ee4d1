import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { sha256 } from '../../lib/ids.ts'
import type { Actor, Origin } from '../accounts/actor.ts'
import { includesRole, type Role } from '../accounts/permissions.ts'
import { endProviderSessions } from '../accounts/provider-sessions.ts'
import { recordAudit } from '../audit/record.ts'
import type { Signals } from '../signals.ts'

export interface AcceptedInvitation {
  organizationId: string
  organizationSlug: string
  role: Role
}

interface AcceptInvitation {
  /** What stands behind `#token=` in the link. */
  token: string
  userId: string
  /** For the audit log, as is what follows: by what the person acts; their browser session when nothing is said. */
  kind?: Actor['kind']
  credentialId?: string
  origin?: Origin | undefined
}

/**
 * Makes a person a member by an invitation's link, which works once: of two at the same time one comes too late. `sql` is
 * the pool itself, since the organization is known only by the token.
 *
 * @throws AppError 'not_found' for a link that is unknown, used, revoked or expired, or whose inviter could not give
 *   this role any more; 'forbidden' when it was made for another address; 'conflict' for a member, who keeps the link.
 */
export async function acceptInvitation(
  deps: { sql: Sql; signals: Signals },
  args: AcceptInvitation,
): Promise<AcceptedInvitation> {
  const accepted = await inTransaction(deps.sql, async (tx) => {
    const invitation = await lockInvitation(tx, args.token)
    await requireAddress(tx, { userId: args.userId, email: invitation.email })
    const { organizationId, organizationSlug, role } = invitation
    const joined = await tx`
      insert into members (organization_id, user_id, role) values (${organizationId}, ${args.userId}, ${role})
      on conflict do nothing returning 1`
    if (joined.length === 0) throw new AppError('conflict', 'You are a member of this organization already')
    const exceptSessionId = args.kind === 'user' ? args.credentialId : undefined
    await endProviderSessions(tx, { userId: args.userId, exceptSessionId })
    await tx`
      update invitations set accepted_at = now(), accepted_by = ${args.userId}
      where organization_id = ${organizationId} and id = ${invitation.id}`
    await recordAudit(
      tx,
      {
        kind: args.kind ?? 'user',
        credentialId: args.credentialId ?? args.userId,
        userId: args.userId,
        organizationId,
        ...(args.origin ? { origin: args.origin } : {}),
      },
      {
        action: 'invitation.accepted',
        targetKind: 'member',
        targetId: args.userId,
        details: { role, invitationId: invitation.id },
      },
    )
    return { organizationId, organizationSlug, role }
  })
  deps.signals.accessChanged()
  return accepted
}

interface Invitation extends AcceptedInvitation {
  id: string
  email: string | null
}

/** The organization is locked before the invitation, as everywhere, and so is the inviter's role. */
async function lockInvitation(tx: Sql, token: string): Promise<Invitation> {
  const tokenHash = sha256(token)
  await tx`
    select 1 from organizations where id = (select organization_id from invitations where token_hash = ${tokenHash})
    for no key update`
  const [row] = await tx<(Invitation & { invitedBy: string | null; inviterRole: Role | null })[]>`
    select i.organization_id as "organizationId", o.slug as "organizationSlug", i.id, i.email, i.role,
      i.invited_by as "invitedBy", m.role as "inviterRole"
    from invitations i
    join organizations o on o.id = i.organization_id
    left join members m on m.organization_id = i.organization_id and m.user_id = i.invited_by
    where i.token_hash = ${tokenHash} and i.accepted_at is null and i.revoked_at is null and i.expires_at > now()
    for update of i`
  const mayInvite = row && (row.invitedBy === null || (row.inviterRole && includesRole(row.inviterRole, row.role)))
  if (!mayInvite) throw new AppError('not_found', 'This invitation is unknown, used, revoked or expired')
  return row
}

async function requireAddress(tx: Sql, { userId, email }: { userId: string; email: string | null }): Promise<void> {
  const [user] = await tx<{ email: string }[]>`select email from users where id = ${userId}`
  if (!user) throw new AppError('not_found', 'No such person')
  if (email !== null && user.email.toLowerCase() !== email) {
    throw new AppError('forbidden', 'This invitation is for another email address')
  }
}
