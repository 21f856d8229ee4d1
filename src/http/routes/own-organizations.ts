import { createRoute, z } from '@hono/zod-openapi'
import type { Context } from 'hono'
import type { Sql } from '../../db/client.ts'
import { type Requester, requirePerson } from '../../domain/accounts/actor.ts'
import { acceptInvitation } from '../../domain/organizations/accept-invitation.ts'
import { createOrganization } from '../../domain/organizations/create.ts'
import { listOnlyOrganization, listOrganizations } from '../../domain/organizations/list.ts'
import type { Signals } from '../../domain/signals.ts'
import { actorOf, databaseOf } from '../actor.ts'
import type { Env } from '../env.ts'
import { BEARER } from '../openapi.ts'
import { afterLast } from '../paging.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { Name, Organization, RoleName, Slug, toOrganization } from './organizations.ts'

const OwnOrganization = Organization.extend({ role: RoleName }).openapi('OwnOrganization')
const CreateOrganization = z.object({ name: Name, slug: Slug.optional() }).openapi('CreateOrganization')
const AcceptInvitation = z.object({ token: z.string().min(1).max(200) }).openapi('AcceptInvitation')
const Accepted = z
  .object({ organizationId: z.string(), organizationSlug: z.string(), role: RoleName })
  .openapi('AcceptedInvitation')

const tags = ['Organizations']
const json = <T extends z.ZodType>(schema: T) => ({ 'application/json': { schema } })

const list = createRoute({
  method: 'get',
  path: '/api/organizations',
  tags,
  summary: 'The organizations that the caller belongs to',
  description: 'A person sees all of theirs, by slug. An API key sees its own organization only.',
  request: {
    query: afterLast(),
  },
  security: BEARER,
  responses: {
    200: { description: 'A page', content: json(z.object({ organizations: z.array(OwnOrganization) })) },
    ...errors('unauthenticated', 'forbidden'),
  },
})

const create = createRoute({
  method: 'post',
  path: '/api/organizations',
  tags,
  summary: 'Make an organization, and own it',
  request: { body: { required: true, content: json(CreateOrganization) } },
  security: BEARER,
  responses: {
    201: { description: 'Made', content: json(z.object({ organization: Organization })) },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'conflict', 'limit_reached'),
  },
})

const accept = createRoute({
  method: 'post',
  path: '/api/invitations/accept',
  tags,
  summary: 'Become a member by an invitation’s token',
  request: { body: { required: true, content: json(AcceptInvitation) } },
  security: BEARER,
  responses: {
    200: { description: 'A member', content: json(Accepted) },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found', 'conflict'),
  },
})

export interface OwnOrganizationRouteDeps {
  /** The pool itself, for what is not inside of one organization. */
  pool: Sql
  signals: Signals
  singleOrganization: boolean
}

/** What a person does outside of any one organization: see theirs, make one, join one. */
export function ownOrganizationRoutes({ pool, signals, singleOrganization }: OwnOrganizationRouteDeps): Router {
  return createRouter()
    .openapi(list, async (c) => {
      const organizations = isLimited(c)
        ? await listOnlyOrganization(databaseOf(c), { actor: actorOf(c) })
        : await listOrganizations(pool, { requester: requesterOf(c), ...c.req.valid('query') })
      return c.json({ organizations: organizations.map((row) => ({ ...toOrganization(row), role: row.role })) }, 200)
    })
    .openapi(create, async (c) => {
      const args = { requester: requesterOf(c), ...c.req.valid('json') }
      const made = await createOrganization({ sql: pool, signals, singleOrganization }, args)
      return c.json({ organization: toOrganization(made) }, 201)
    })
    .openapi(accept, async (c) => {
      const { userId, kind, credentialId, origin } = requesterOf(c)
      const args = { token: c.req.valid('json').token, userId, kind, credentialId, origin }
      return c.json(await acceptInvitation({ sql: pool, signals }, args), 200)
    })
}

/** A credential of one organization, which does not speak for its owner elsewhere. */
function isLimited(c: Context<Env>): boolean {
  return c.get('actor') !== undefined && actorOf(c).kind !== 'user'
}

/** Who asks, a member of an organization or of none. */
function requesterOf(c: Context<Env>): Requester {
  return c.get('requester') ?? requirePerson(actorOf(c))
}
