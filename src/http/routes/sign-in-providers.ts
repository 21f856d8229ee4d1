import { createRoute, z } from '@hono/zod-openapi'
import {
  addSignInProvider,
  listSignInProviders,
  type OwnSignInProvider,
  removeSignInProvider,
  type SignInProviderDeps,
} from '../../domain/organizations/sign-in-providers.ts'
import { actorOf, databaseOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { Org } from './organizations.ts'

const Fields = z.object({
  name: z.string().trim().min(1).max(60).openapi({ example: 'Acme SSO' }),
  issuer: z
    .url({ protocol: /^https?$/ })
    .max(500)
    .transform((url) => url.replace(/\/+$/, '')),
  clientId: z.string().min(1).max(500),
  role: z.enum(['admin', 'member', 'viewer']).default('member'),
})
const SignInProvider = Fields.extend({
  providerId: z.string(),
  callbackUrl: z.string().openapi({ description: 'To be registered with the provider' }),
  createdAt: z.number().openapi({ description: 'Epoch milliseconds' }),
}).openapi('SignInProvider')

const tags = ['Organizations']

const list = createRoute({
  method: 'get',
  path: '/api/{org}/sign-in-providers',
  tags,
  summary: 'Where else people of the organization can sign in',
  request: { params: Org },
  security: BEARER,
  responses: {
    200: {
      description: 'All of them, without their secrets',
      content: { 'application/json': { schema: z.object({ providers: z.array(SignInProvider) }) } },
    },
    ...errors('unauthenticated', 'forbidden', 'not_found'),
  },
})

const add = createRoute({
  method: 'post',
  path: '/api/{org}/sign-in-providers',
  tags,
  summary: 'Let people sign in at an OpenID Connect provider',
  request: {
    params: Org,
    body: {
      required: true,
      content: {
        'application/json': {
          schema: Fields.extend({ clientSecret: z.string().min(1).max(2_000) }).openapi('AddSignInProvider'),
        },
      },
    },
  },
  security: BEARER,
  responses: {
    201: {
      description: 'Added',
      content: { 'application/json': { schema: z.object({ provider: SignInProvider }) } },
    },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found', 'limit_reached'),
  },
})

const remove = createRoute({
  method: 'delete',
  path: '/api/{org}/sign-in-providers/{providerId}',
  tags,
  summary: 'Take a provider away; who is signed in stays so',
  request: { params: Org.extend({ providerId: z.string().min(1).max(100) }) },
  security: BEARER,
  responses: { 204: { description: 'Removed' }, ...errors('unauthenticated', 'forbidden', 'not_found') },
})

/** Sign-in providers of an organization. Their client secrets go in and never come out. */
export function signInProviderRoutes(deps: Omit<SignInProviderDeps, 'sql'> & { publicUrl: string }): Router {
  const toView = ({ createdAt, ...row }: OwnSignInProvider) => ({
    ...row,
    callbackUrl: `${deps.publicUrl}/api/auth/callback/${row.providerId}`,
    createdAt: createdAt.getTime(),
  })
  return createRouter()
    .openapi(list, async (c) => {
      const providers = await listSignInProviders(databaseOf(c), { actor: actorOf(c) })
      return c.json({ providers: providers.map(toView) }, 200)
    })
    .openapi(add, async (c) => {
      const { clientSecret, ...fields } = c.req.valid('json')
      const args = { actor: actorOf(c), fields, clientSecret }
      return c.json({ provider: toView(await addSignInProvider({ ...deps, sql: databaseOf(c) }, args)) }, 201)
    })
    .openapi(remove, async (c) => {
      const args = { actor: actorOf(c), providerId: c.req.valid('param').providerId }
      await removeSignInProvider({ ...deps, sql: databaseOf(c) }, args)
      return c.body(null, 204)
    })
}
