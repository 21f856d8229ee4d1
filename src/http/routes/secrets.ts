import { createRoute, z } from '@hono/zod-openapi'
import { SECRET_NAME } from '../../domain/secrets/references.ts'
import { listSecrets, removeSecret, type SecretInfo, setSecret } from '../../domain/secrets/secrets.ts'
import type { Signals } from '../../domain/signals.ts'
import type { Envelope } from '../../lib/envelope.ts'
import { actorOf, databaseOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { afterLast } from '../paging.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { Org } from './organizations.ts'

/** A private key with its certificates fits. */
const VALUE_BYTES_MAX = 8_192

const OrgAgent = Org.extend({ agentId: z.string().min(1).max(100) })
const Name = z
  .string()
  .regex(SECRET_NAME, 'must have 1 to 64 capital letters, digits and underscores and start with a letter')
/** A value is never quoted in an answer, so neither are its faults more than a sentence. */
const Value = z
  .string()
  .min(1, 'must not be empty')
  .refine((value) => Buffer.byteLength(value) <= VALUE_BYTES_MAX, `must have ${VALUE_BYTES_MAX} bytes at most`)
  .openapi({ description: `1 to ${VALUE_BYTES_MAX} bytes; never shown again` })
const Host = z
  .string()
  .regex(/^\.?[a-z0-9][a-z0-9.-]{0,250}(:\d{1,5})?$/, 'must be a host, host:port or .suffix in lower case')

const SetSecret = z
  .object({
    value: Value,
    allowedHosts: z.array(Host).max(50).default([]).openapi({
      description: 'Where it may be sent. Without one: only where the settings of the agent itself send it',
    }),
  })
  .openapi('SetSecret')

const Secret = z
  .object({
    name: z.string(),
    kind: z.enum(['secret', 'provider', 'oidc']),
    allowedHosts: z.array(z.string()),
    updatedAt: z.number().openapi({ description: 'Epoch milliseconds' }),
  })
  .openapi('Secret')

const Page = afterLast({ fallback: 200 }).extend({
  after: z.string().max(300).optional().openapi({ description: '`kind:name` of the last one seen' }),
})
const tags = ['Secrets']
const listBody = { 'application/json': { schema: z.object({ secrets: z.array(Secret) }) } }
const secretBody = { 'application/json': { schema: z.object({ secret: Secret }) } }
const setBody = { required: true, content: { 'application/json': { schema: SetSecret } } }

/** The same three routes for an organization and for one of its agents. */
function declare<Params extends typeof Org>(base: string, params: Params, whose: string) {
  const Named = params.extend({ name: Name })
  const list = createRoute({
    method: 'get',
    path: `/api/{org}${base}/secrets`,
    tags,
    summary: `Names of the secrets of ${whose}, never their values`,
    request: { params, query: Page },
    security: BEARER,
    responses: {
      200: { description: 'Secrets', content: listBody },
      ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found'),
    },
  })
  const set = createRoute({
    method: 'put',
    path: `/api/{org}${base}/secrets/{name}`,
    tags,
    summary: `Set a secret of ${whose}`,
    request: { params: Named, body: setBody },
    security: BEARER,
    responses: {
      200: { description: 'Changed', content: secretBody },
      201: { description: 'Made', content: secretBody },
      ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found', 'limit_reached', 'payload_too_large'),
    },
  })
  const remove = createRoute({
    method: 'delete',
    path: `/api/{org}${base}/secrets/{name}`,
    tags,
    summary: `Remove a secret of ${whose}`,
    request: { params: Named },
    security: BEARER,
    responses: {
      204: { description: 'Removed' },
      ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found'),
    },
  })
  return { list, set, remove }
}

const ofOrganization = declare('', Org, 'an organization')
const ofAgent = declare('/agents/{agentId}', OrgAgent, 'an agent')

export interface SecretRouteDeps {
  signals: Signals
  envelope: Envelope
}

/** What an organization and its agents keep secret. A value goes in and never comes out again. */
export function secretRoutes({ signals, envelope }: SecretRouteDeps): Router {
  const router = createRouter()
  for (const { list, set, remove } of [ofOrganization, ofAgent as unknown as typeof ofOrganization]) {
    router
      .openapi(list, async (c) => {
        const owner = { actor: actorOf(c), agentId: agentOf(c.req.valid('param')) }
        const secrets = await listSecrets(databaseOf(c), { ...owner, ...c.req.valid('query') })
        return c.json({ secrets: secrets.map(toSecret) }, 200)
      })
      .openapi(set, async (c) => {
        const { name, ...params } = c.req.valid('param')
        const deps = { sql: databaseOf(c), signals, envelope }
        const owner = { actor: actorOf(c), agentId: agentOf(params) }
        const { secret, created } = await setSecret(deps, { ...owner, name, ...c.req.valid('json') })
        return c.json({ secret: toSecret(secret) }, created ? 201 : 200)
      })
      .openapi(remove, async (c) => {
        const { name, ...params } = c.req.valid('param')
        const deps = { sql: databaseOf(c), signals, envelope }
        await removeSecret(deps, { actor: actorOf(c), agentId: agentOf(params), name })
        return c.body(null, 204)
      })
  }
  return router
}

function agentOf(params: { org: string; agentId?: string }): string | undefined {
  return params.agentId
}

function toSecret(secret: SecretInfo) {
  return { ...secret, updatedAt: secret.updatedAt.getTime() }
}
