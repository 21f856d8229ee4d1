import { createRoute, z } from '@hono/zod-openapi'
import { listProviderKeys, removeProviderKey, setProviderKey } from '../../domain/secrets/provider-keys.ts'
import type { Signals } from '../../domain/signals.ts'
import type { Envelope } from '../../lib/envelope.ts'
import { actorOf, databaseOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { Org } from './organizations.ts'

const KEY_CHARS_MAX = 8_192

const OrgProvider = Org.extend({ provider: z.string().min(1).max(100).openapi({ example: 'anthropic' }) })
const AgentProvider = OrgProvider.extend({ agentId: z.string().min(1).max(100) })

const SetProviderKey = z
  .object({
    value: z
      .string()
      .max(KEY_CHARS_MAX)
      .regex(/^[\x21-\x7e]+$/, 'must be visible ASCII characters without spaces, as a header can carry them')
      .openapi({ description: 'The key itself; never shown again' }),
  })
  .openapi('SetProviderKey')

const ProviderKey = z
  .object({
    provider: z.string(),
    updatedAt: z
      .number()
      .nullable()
      .openapi({ description: 'Epoch milliseconds; null: no key of its own, so the one of the environment counts' }),
  })
  .openapi('ProviderKey')

const tags = ['Provider keys']
const keyBody = { 'application/json': { schema: ProviderKey } }
const setBody = { required: true, content: { 'application/json': { schema: SetProviderKey } } }

const list = createRoute({
  method: 'get',
  path: '/api/{org}/providers',
  tags,
  summary: 'Providers of models, and for which the organization has a key of its own',
  request: { params: Org },
  security: BEARER,
  responses: {
    200: {
      description: 'Providers',
      content: { 'application/json': { schema: z.object({ providers: z.array(ProviderKey) }) } },
    },
    ...errors('unauthenticated', 'forbidden', 'not_found'),
  },
})

/** The same two routes for an organization and for one of its agents. */
function declare<Params extends typeof OrgProvider>(base: string, params: Params, whose: string) {
  const path = `/api/{org}${base}/providers/{provider}/api-key`
  const set = createRoute({
    method: 'put',
    path,
    tags,
    summary: `Set the key with which ${whose} calls a provider of models`,
    request: { params, body: setBody },
    security: BEARER,
    responses: {
      200: { description: 'Changed', content: keyBody },
      201: { description: 'Made', content: keyBody },
      ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found', 'limit_reached', 'payload_too_large'),
    },
  })
  const remove = createRoute({
    method: 'delete',
    path,
    tags,
    summary: `Remove the provider key of ${whose}`,
    request: { params },
    security: BEARER,
    responses: { 204: { description: 'Removed' }, ...errors('unauthenticated', 'forbidden', 'not_found') },
  })
  return { set, remove }
}

const ofOrganization = declare('', OrgProvider, 'an organization')
const ofAgent = declare('/agents/{agentId}', AgentProvider, 'an agent')

export interface ProviderKeyRouteDeps {
  signals: Signals
  envelope: Envelope
  /** Providers that a key can be given for. */
  providers: readonly string[]
}

/** Keys of model providers: an agent's own counts before its organization's, and that before the environment's. */
export function providerKeyRoutes({ signals, envelope, providers }: ProviderKeyRouteDeps): Router {
  const router = createRouter().openapi(list, async (c) => {
    const keys = await listProviderKeys({ sql: databaseOf(c), providers }, { actor: actorOf(c) })
    return c.json({ providers: keys.map(toProviderKey) }, 200)
  })
  for (const { set, remove } of [ofOrganization, ofAgent as unknown as typeof ofOrganization]) {
    router
      .openapi(set, async (c) => {
        const { agentId, provider } = paramsOf(c.req.valid('param'))
        const deps = { sql: databaseOf(c), signals, envelope, providers }
        const { value } = c.req.valid('json')
        const { created, updatedAt } = await setProviderKey(deps, { actor: actorOf(c), agentId, provider, value })
        return c.json(toProviderKey({ provider, updatedAt }), created ? 201 : 200)
      })
      .openapi(remove, async (c) => {
        const { agentId, provider } = paramsOf(c.req.valid('param'))
        const deps = { sql: databaseOf(c), signals, envelope, providers }
        await removeProviderKey(deps, { actor: actorOf(c), agentId, provider })
        return c.body(null, 204)
      })
  }
  return router
}

function paramsOf(params: { provider: string; agentId?: string }): { provider: string; agentId: string | undefined } {
  return { provider: params.provider, agentId: params.agentId }
}

function toProviderKey({ provider, updatedAt }: { provider: string; updatedAt: Date | null }) {
  return { provider, updatedAt: updatedAt?.getTime() ?? null }
}
