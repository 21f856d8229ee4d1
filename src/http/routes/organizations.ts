import { createRoute, z } from '@hono/zod-openapi'
import type { Sql } from '../../db/client.ts'
import { ALL_PERMISSIONS, PERMISSIONS, ROLE_NAMES, ROLES } from '../../domain/accounts/permissions.ts'
import { deleteOrganization } from '../../domain/organizations/delete.ts'
import { getOrganization, type Organization as Row, requireInside } from '../../domain/organizations/get.ts'
import { SLUG } from '../../domain/organizations/slug.ts'
import { updateOrganization } from '../../domain/organizations/update.ts'
import type { Signals } from '../../domain/signals.ts'
import { actorOf, databaseOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { createRouter, errors, type Router } from '../router.ts'

/** The organization in a path. */
export const Org = z.object({ org: z.string().min(1).max(100) })
export const RoleName = z.enum(ROLE_NAMES).openapi('Role')
export const Slug = z
  .string()
  .regex(SLUG, 'must have 3 to 40 lower-case letters, digits and single hyphens, a letter first')
export const Name = z.string().trim().min(1).max(100)

export const Organization = z
  .object({
    id: z.string(),
    slug: z.string().openapi({ description: 'Its name in paths', example: 'acme' }),
    name: z.string(),
    createdAt: z.number().openapi({ description: 'Epoch milliseconds' }),
  })
  .openapi('Organization')
const UpdateOrganization = z.object({ name: Name, slug: Slug }).partial().openapi('UpdateOrganization')
const Permissions = z
  .object({
    permissions: z.array(z.object({ name: z.enum(ALL_PERMISSIONS as [string, ...string[]]), meaning: z.string() })),
    roles: z.record(RoleName, z.array(z.string())),
    own: z.object({ role: RoleName.nullable(), permissions: z.array(z.string()) }),
  })
  .openapi('Permissions')

const tags = ['Organizations']
const json = <T extends z.ZodType>(schema: T) => ({ 'application/json': { schema } })
const one = json(z.object({ organization: Organization }))

const get = createRoute({
  method: 'get',
  path: '/api/{org}',
  tags,
  summary: 'The organization',
  request: { params: Org },
  security: BEARER,
  responses: { 200: { description: 'It', content: one }, ...errors('unauthenticated', 'forbidden', 'not_found') },
})

const update = createRoute({
  method: 'patch',
  path: '/api/{org}',
  tags,
  summary: 'Change the name or slug',
  request: { params: Org, body: { required: true, content: json(UpdateOrganization) } },
  security: BEARER,
  responses: {
    200: { description: 'Changed', content: one },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found', 'conflict'),
  },
})

const remove = createRoute({
  method: 'delete',
  path: '/api/{org}',
  tags,
  summary: 'Delete the organization with everything in it',
  request: { params: Org },
  security: BEARER,
  responses: { 204: { description: 'Deleted' }, ...errors('unauthenticated', 'forbidden', 'not_found') },
})

const permissions = createRoute({
  method: 'get',
  path: '/api/{org}/permissions',
  tags,
  summary: 'What can be allowed, what each role may, and what the caller may',
  request: { params: Org },
  security: BEARER,
  responses: {
    200: { description: 'The table', content: json(Permissions) },
    ...errors('unauthenticated', 'forbidden', 'not_found'),
  },
})

export interface OrganizationRouteDeps {
  /** The pool itself: an organization cannot remove itself. */
  pool: Sql
  signals: Signals
}

/** Organizations themselves. */
export function organizationRoutes({ pool, signals }: OrganizationRouteDeps): Router {
  return createRouter()
    .openapi(get, async (c) => {
      const organization = await getOrganization(databaseOf(c), { actor: actorOf(c) })
      return c.json({ organization: toOrganization(organization) }, 200)
    })
    .openapi(update, async (c) => {
      const { name, slug } = c.req.valid('json')
      const fields = { ...(name === undefined ? {} : { name }), ...(slug === undefined ? {} : { slug }) }
      const organization = await updateOrganization({ sql: databaseOf(c), signals }, { actor: actorOf(c), fields })
      return c.json({ organization: toOrganization(organization) }, 200)
    })
    .openapi(remove, async (c) => {
      await deleteOrganization({ sql: pool, signals, log: c.get('log') }, { actor: actorOf(c) })
      return c.body(null, 204)
    })
    .openapi(permissions, (c) => {
      const actor = actorOf(c)
      requireInside(actor)
      const table = ALL_PERMISSIONS.map((name) => ({ name, meaning: PERMISSIONS[name] }))
      const roles = Object.fromEntries(ROLE_NAMES.map((name) => [name, [...ROLES[name]]])) as Record<
        (typeof ROLE_NAMES)[number],
        string[]
      >
      return c.json({ permissions: table, roles, own: { role: actor.role, permissions: [...actor.permissions] } }, 200)
    })
}

export function toOrganization({ id, slug, name, createdAt }: Row) {
  return { id, slug, name, createdAt: createdAt.getTime() }
}
