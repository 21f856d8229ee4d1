import { randomBytes } from 'node:crypto'
import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { newId, sha256 } from '../../lib/ids.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import type { Role } from '../accounts/permissions.ts'
import { recordAudit } from '../audit/record.ts'
import { requireRoom } from '../limits/room.ts'
import { requireGrantable } from './grant.ts'
import { lockOrganization } from './lock.ts'

const INVITATION_DAYS = 7

export interface NewInvitation {
  id: string
  role: Role
  email: string | null
  /** Holds the token: shown once, kept only as a hash. */
  url: string
  createdAt: Date
  expiresAt: Date
  /** Whether it was mailed to its address. */
  mailed: boolean
}

export interface InvitationMail {
  to: string
  url: string
  organizationName: string
  expiresAt: Date
}

export interface CreateInvitationDeps {
  sql: Sql
  publicUrl: string
  /** Sends the link to its address. Without it, and when it fails, the inviter hands the link on. */
  mailInvitation?: ((mail: InvitationMail) => Promise<void>) | undefined
}

/**
 * Makes a link by which one person becomes a member. The token is behind a `#`, so it gets into no server's log. A new
 * invitation for an address takes the place of an older one.
 *
 * @throws AppError 'forbidden' for a role that is more than the inviter's own; 'conflict' when a member has the address; 'limit_reached'.
 */
export async function createInvitation(
  deps: CreateInvitationDeps,
  args: { actor: Actor; role: Role; email: string | null },
): Promise<NewInvitation> {
  const { actor, role } = args
  requirePermission(actor, 'members:write')
  requireGrantable(actor, role)
  const email = args.email?.toLowerCase() ?? null
  const token = randomBytes(32).toString('base64url')
  const { organization, row } = await inTransaction(deps.sql, async (tx) => {
    const organization = await lockOrganization(tx, actor.organizationId)
    const invitedBy = await findInviter(tx, actor)
    if (email !== null) await replaceInvitations(tx, { actor, email })
    await requireRoom(tx, { organizationId: actor.organizationId, of: 'invitations' })
    const id = newId('inv')
    const [row] = await tx<{ id: string; createdAt: Date; expiresAt: Date }[]>`
      insert into invitations (organization_id, id, email, role, token_hash, invited_by, expires_at)
      values (${actor.organizationId}, ${id}, ${email}, ${role}, ${sha256(token)},
        ${invitedBy}, now() + ${INVITATION_DAYS} * interval '1 day')
      returning id, created_at as "createdAt", expires_at as "expiresAt"`
    const details = { role, ...(email === null ? {} : { email }) }
    await recordAudit(tx, actor, { action: 'invitation.created', targetKind: 'invitation', targetId: id, details })
    return { organization, row: row! }
  })
  const url = `${deps.publicUrl}/invite#token=${token}`
  const mailed = email !== null && (await mail(deps, { to: email, url, organizationName: organization.name, ...row }))
  return { ...row, role, email, url, mailed }
}

/**
 * Null for a key of the organization. The caller holds the organization's lock: a person who was removed while this request
 * waited must leave no invitation behind, and least of all one that counts as the organization's own.
 * @throws AppError 'forbidden'
 */
async function findInviter(tx: Sql, { organizationId, userId, credentialId }: Actor): Promise<string | null> {
  if (userId === credentialId) return null
  const found = await tx`select 1 from members where organization_id = ${organizationId} and user_id = ${userId}`
  if (found.length > 0) return userId
  throw new AppError('forbidden', 'You are no member of this organization any more')
}

async function replaceInvitations(tx: Sql, { actor, email }: { actor: Actor; email: string }): Promise<void> {
  const members = await tx`
    select 1 from members m join users u on u.id = m.user_id
    where m.organization_id = ${actor.organizationId} and lower(u.email) = ${email}`
  if (members.length > 0) throw new AppError('conflict', 'A member has this address already')
  await tx`
    update invitations set revoked_at = now()
    where organization_id = ${actor.organizationId} and email = ${email} and accepted_at is null and revoked_at is null`
}

/** The invitation stands without its mail, and its link is in the answer. */
async function mail(
  { mailInvitation }: CreateInvitationDeps,
  { to, url, organizationName, expiresAt }: InvitationMail,
): Promise<boolean> {
  if (!mailInvitation) return false
  return mailInvitation({ to, url, organizationName, expiresAt }).then(
    () => true,
    () => false,
  )
}
