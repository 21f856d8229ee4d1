import { createRoute, z } from '@hono/zod-openapi'
import { createKey, type MadeKey } from '../../domain/keys/create.ts'
import { type ApiKey, listKeys } from '../../domain/keys/list.ts'
import { revokeKey } from '../../domain/keys/revoke.ts'
import { rotateKey } from '../../domain/keys/rotate.ts'
import type { Signals } from '../../domain/signals.ts'
import { actorOf, databaseOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { afterLast } from '../paging.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { Org } from './organizations.ts'

/** Rotated keys may overlap for a week at most: whoever needs longer keeps both. */
const OVERLAP_SECONDS_MAX = 7 * 86_400
const OVERLAP_SECONDS = 3600

const time = z.iso.datetime().openapi({ example: '2030-01-31T12:00:00.000Z' })
const Token = z
  .object({
    id: z.string(),
    token_prefix: z.string().openapi({ description: 'The first characters of the key' }),
    name: z.string(),
    scope: z.string().openapi({ description: 'Permissions with spaces between them, or `*`', example: 'agents:read' }),
    user_id: z.string().nullable().openapi({ description: 'Whose key it is; null: the organization’s own' }),
    created_at: time,
    expires_at: time.nullable(),
    last_used_at: time.nullable().openapi({ description: 'Known to about a minute' }),
    replaced_by: z.string().nullable().openapi({ description: 'The key that took its place' }),
  })
  .openapi('Token')
const NewToken = Token.extend({ token: z.string().openapi({ description: 'The key; it is shown this once' }) }).openapi(
  'NewToken',
)
const CreateToken = z
  .object({
    name: z.string().trim().min(1).max(100),
    scope: z.string().max(2000).default('*'),
    expires_at: z.iso.datetime({ offset: true }).nullable().default(null),
    organization: z.boolean().default(false).openapi({ description: 'The organization’s own, by admins only' }),
  })
  .openapi('CreateToken')
const RotateToken = z
  .object({ overlapSeconds: z.number().int().min(0).max(OVERLAP_SECONDS_MAX).default(OVERLAP_SECONDS) })
  .openapi('RotateToken')

const OrgToken = Org.extend({ tokenId: z.string().min(1).max(100) })
const tags = ['API keys']
const json = <T extends z.ZodType>(schema: T) => ({ 'application/json': { schema } })
const made = { description: 'The new key', content: json(z.object({ token: NewToken })) }

const list = createRoute({
  method: 'get',
  path: '/api/{org}/tokens',
  tags,
  summary: 'API keys: one’s own, or all of the organization’s for admins',
  request: {
    params: Org,
    query: afterLast(),
  },
  security: BEARER,
  responses: {
    200: { description: 'A page', content: json(z.object({ tokens: z.array(Token) })) },
    ...errors('unauthenticated', 'forbidden', 'not_found'),
  },
})

const create = createRoute({
  method: 'post',
  path: '/api/{org}/tokens',
  tags,
  summary: 'Make an API key',
  request: { params: Org, body: { required: true, content: json(CreateToken) } },
  security: BEARER,
  responses: { 201: made, ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found', 'limit_reached') },
})

const rotate = createRoute({
  method: 'post',
  path: '/api/{org}/tokens/{tokenId}/rotate',
  tags,
  summary: 'Make a key that takes the place of another, which works for a while longer',
  request: { params: OrgToken, body: { required: false, content: json(RotateToken) } },
  security: BEARER,
  responses: { 201: made, ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found', 'conflict') },
})

const revoke = createRoute({
  method: 'delete',
  path: '/api/{org}/tokens/{tokenId}',
  tags,
  summary: 'Revoke an API key',
  request: { params: OrgToken },
  security: BEARER,
  responses: {
    204: { description: 'No replica accepts it any more' },
    ...errors('unauthenticated', 'forbidden', 'not_found'),
  },
})

/** API keys. Their fields are in snake case, as published clients read them. */
export function tokenRoutes({ signals }: { signals: Signals }): Router {
  return createRouter()
    .openapi(list, async (c) => {
      const keys = await listKeys(databaseOf(c), { actor: actorOf(c), ...c.req.valid('query') })
      return c.json({ tokens: keys.map(toToken) }, 200)
    })
    .openapi(create, async (c) => {
      const { name, scope, expires_at, organization } = c.req.valid('json')
      const expiresAt = expires_at === null ? null : new Date(expires_at)
      const args = { actor: actorOf(c), name, scope, expiresAt, ofOrganization: organization }
      return c.json({ token: toNewToken(await createKey(databaseOf(c), args)) }, 201)
    })
    .openapi(rotate, async (c) => {
      // Without a body the library validates nothing.
      const { overlapSeconds } = RotateToken.parse(c.req.valid('json') ?? {})
      const args = { actor: actorOf(c), keyId: c.req.valid('param').tokenId, overlapMs: overlapSeconds * 1000 }
      return c.json({ token: toNewToken(await rotateKey({ sql: databaseOf(c), signals }, args)) }, 201)
    })
    .openapi(revoke, async (c) => {
      const args = { actor: actorOf(c), keyId: c.req.valid('param').tokenId }
      await revokeKey({ sql: databaseOf(c), signals }, args)
      return c.body(null, 204)
    })
}

function toNewToken(key: MadeKey) {
  return { ...toToken(key), token: key.token }
}

function toToken(key: ApiKey) {
  return {
    id: key.id,
    token_prefix: key.tokenPrefix,
    name: key.name,
    scope: key.scopes.join(' '),
    user_id: key.userId,
    created_at: key.createdAt.toISOString(),
    expires_at: key.expiresAt?.toISOString() ?? null,
    last_used_at: key.lastUsedAt?.toISOString() ?? null,
    replaced_by: key.replacedBy,
  }
}
