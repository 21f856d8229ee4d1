import { createRoute, z } from '@hono/zod-openapi'
import { requirePermission } from '../../domain/accounts/actor.ts'
import { actorOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { Org } from './organizations.ts'

const WebhookKey = z
  .object({
    key: z.string().openapi({ description: 'Verifies `x-lobu-signature`: HMAC-SHA256 over "<t>.<raw body>"' }),
  })
  .openapi('WebhookKey')

const key = createRoute({
  method: 'get',
  path: '/api/{org}/webhooks/key',
  tags: ['Webhooks'],
  summary: "The key that signs this organization's webhooks",
  request: { params: Org },
  security: BEARER,
  responses: {
    200: { description: 'Key', content: { 'application/json': { schema: WebhookKey } } },
    ...errors('unauthenticated', 'forbidden', 'not_found'),
  },
})

/** What a receiver of webhooks needs to trust them. */
export function webhookRoutes(deps: { webhookKey(organizationId: string): string }): Router {
  return createRouter().openapi(key, (c) => {
    const actor = actorOf(c)
    requirePermission(actor, 'keys:read')
    return c.json({ key: deps.webhookKey(actor.organizationId) }, 200)
  })
}
