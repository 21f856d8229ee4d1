import { createRoute, z } from '@hono/zod-openapi'
import { changeRole } from '../../domain/organizations/change-role.ts'
import { type CreateInvitationDeps, createInvitation } from '../../domain/organizations/create-invitation.ts'
import { leaveOrganization } from '../../domain/organizations/leave.ts'
import { listInvitations } from '../../domain/organizations/list-invitations.ts'
import { listMembers } from '../../domain/organizations/list-members.ts'
import { removeMember } from '../../domain/organizations/remove-member.ts'
import { revokeInvitation } from '../../domain/organizations/revoke-invitation.ts'
import { transferOwnership } from '../../domain/organizations/transfer.ts'
import type { Signals } from '../../domain/signals.ts'
import { actorOf, databaseOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { afterLast } from '../paging.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { Org, RoleName } from './organizations.ts'

const Member = z
  .object({ userId: z.string(), name: z.string(), email: z.string(), role: RoleName, joinedAt: z.number() })
  .openapi('Member')
const Invitation = z
  .object({
    id: z.string(),
    role: RoleName,
    email: z.string().nullable().openapi({ description: 'Only a person with this address can accept it' }),
    createdAt: z.number(),
    expiresAt: z.number(),
  })
  .openapi('Invitation')
const NewInvitation = Invitation.extend({
  url: z.string().openapi({ description: 'The link; it is shown this once' }),
  mailed: z.boolean(),
}).openapi('NewInvitation')
const CreateInvitation = z.object({ role: RoleName, email: z.email().max(254).nullable().default(null) })

const OrgUser = Org.extend({ userId: z.string().min(1).max(200) })
const Page = afterLast()
const json = <T extends z.ZodType>(schema: T) => ({ 'application/json': { schema } })
const body = <T extends z.ZodType>(schema: T) => ({ required: true, content: json(schema) })
const tags = ['Members']

const members = createRoute({
  method: 'get',
  path: '/api/{org}/members',
  tags,
  summary: 'The members of an organization',
  request: { params: Org, query: Page },
  security: BEARER,
  responses: {
    200: { description: 'A page', content: json(z.object({ members: z.array(Member) })) },
    ...errors('unauthenticated', 'forbidden', 'not_found'),
  },
})

const change = createRoute({
  method: 'patch',
  path: '/api/{org}/members/{userId}',
  tags,
  summary: 'Give a member another role',
  request: { params: OrgUser, body: body(z.object({ role: RoleName })) },
  security: BEARER,
  responses: {
    204: { description: 'Changed, on every replica' },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found', 'conflict'),
  },
})

const remove = createRoute({
  method: 'delete',
  path: '/api/{org}/members/{userId}',
  tags,
  summary: 'Remove a member with their API keys',
  request: { params: OrgUser },
  security: BEARER,
  responses: {
    204: { description: 'Removed, on every replica' },
    ...errors('unauthenticated', 'forbidden', 'not_found', 'conflict'),
  },
})

const leave = createRoute({
  method: 'post',
  path: '/api/{org}/leave',
  tags,
  summary: 'End one’s own membership',
  request: { params: Org },
  security: BEARER,
  responses: {
    204: { description: 'Left, on every replica' },
    ...errors('unauthenticated', 'forbidden', 'not_found', 'conflict'),
  },
})

const transfer = createRoute({
  method: 'post',
  path: '/api/{org}/transfer',
  tags,
  summary: 'Make another member the owner, and oneself an admin',
  request: { params: Org, body: body(z.object({ userId: z.string().min(1).max(200) })) },
  security: BEARER,
  responses: {
    204: { description: 'Transferred, on every replica' },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found', 'conflict'),
  },
})

const invite = createRoute({
  method: 'post',
  path: '/api/{org}/invitations',
  tags,
  summary: 'Make a link by which one person becomes a member',
  request: { params: Org, body: body(CreateInvitation.openapi('CreateInvitation')) },
  security: BEARER,
  responses: {
    201: { description: 'The link', content: json(z.object({ invitation: NewInvitation })) },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found', 'conflict'),
  },
})

const invitations = createRoute({
  method: 'get',
  path: '/api/{org}/invitations',
  tags,
  summary: 'Invitations that can still be accepted',
  request: { params: Org, query: Page },
  security: BEARER,
  responses: {
    200: { description: 'A page', content: json(z.object({ invitations: z.array(Invitation) })) },
    ...errors('unauthenticated', 'forbidden', 'not_found'),
  },
})

const revoke = createRoute({
  method: 'delete',
  path: '/api/{org}/invitations/{invitationId}',
  tags,
  summary: 'Revoke an invitation',
  request: { params: Org.extend({ invitationId: z.string().min(1).max(100) }) },
  security: BEARER,
  responses: { 204: { description: 'Revoked' }, ...errors('unauthenticated', 'forbidden', 'not_found') },
})

export interface MemberRouteDeps {
  signals: Signals
  publicUrl: string
  mailInvitation?: CreateInvitationDeps['mailInvitation']
}

/** Who belongs to an organization, and how others join it. */
export function memberRoutes({ signals, publicUrl, mailInvitation }: MemberRouteDeps): Router {
  return createRouter()
    .openapi(members, async (c) => {
      const rows = await listMembers(databaseOf(c), { actor: actorOf(c), ...c.req.valid('query') })
      return c.json({ members: rows.map((row) => ({ ...row, joinedAt: row.joinedAt.getTime() })) }, 200)
    })
    .openapi(change, async (c) => {
      const args = { actor: actorOf(c), userId: c.req.valid('param').userId, role: c.req.valid('json').role }
      await changeRole({ sql: databaseOf(c), signals }, args)
      return c.body(null, 204)
    })
    .openapi(remove, async (c) => {
      const args = { actor: actorOf(c), userId: c.req.valid('param').userId }
      await removeMember({ sql: databaseOf(c), signals }, args)
      return c.body(null, 204)
    })
    .openapi(leave, async (c) => {
      await leaveOrganization({ sql: databaseOf(c), signals }, { actor: actorOf(c) })
      return c.body(null, 204)
    })
    .openapi(transfer, async (c) => {
      await transferOwnership({ sql: databaseOf(c), signals }, { actor: actorOf(c), ...c.req.valid('json') })
      return c.body(null, 204)
    })
    .openapi(invite, async (c) => {
      const args = { actor: actorOf(c), ...c.req.valid('json') }
      const made = await createInvitation({ sql: databaseOf(c), publicUrl, mailInvitation }, args)
      return c.json({ invitation: { ...toInvitation(made), url: made.url, mailed: made.mailed } }, 201)
    })
    .openapi(invitations, async (c) => {
      const rows = await listInvitations(databaseOf(c), { actor: actorOf(c), ...c.req.valid('query') })
      return c.json({ invitations: rows.map(toInvitation) }, 200)
    })
    .openapi(revoke, async (c) => {
      await revokeInvitation(databaseOf(c), { actor: actorOf(c), ...c.req.valid('param') })
      return c.body(null, 204)
    })
}

type InvitationRow = Awaited<ReturnType<typeof listInvitations>>[number]

function toInvitation({ id, role, email, createdAt, expiresAt }: Omit<InvitationRow, 'invitedBy'>) {
  return { id, role, email, createdAt: createdAt.getTime(), expiresAt: expiresAt.getTime() }
}
