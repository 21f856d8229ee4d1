import { createRoute, z } from '@hono/zod-openapi'
import type { Sql } from '../../db/client.ts'
import { listApps, withdrawApp } from '../../domain/sign-in/apps.ts'
import type { Signals } from '../../domain/signals.ts'
import { actorOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { byCursor } from '../paging.ts'
import { createRouter, errors, type Router } from '../router.ts'

const AppList = z
  .object({
    apps: z.array(
      z.object({ clientId: z.string(), name: z.string(), scopes: z.array(z.string()), since: z.iso.datetime() }),
    ),
    nextCursor: z.string().nullable(),
  })
  .openapi('AppList')

const Page = byCursor({ fallback: 50, max: 200 })

const list = createRoute({
  method: 'get',
  path: '/api/account/apps',
  tags: ['Account'],
  summary: 'Programs that you let in',
  request: { query: Page },
  security: BEARER,
  responses: {
    200: { description: 'Programs by client id', content: { 'application/json': { schema: AppList } } },
    ...errors('invalid_request', 'unauthenticated', 'forbidden'),
  },
})

const remove = createRoute({
  method: 'delete',
  path: '/api/account/apps/{clientId}',
  tags: ['Account'],
  summary: 'Takes back all that you gave a program; holds at once',
  request: { params: z.object({ clientId: z.string().min(1).max(200) }) },
  security: BEARER,
  responses: {
    204: { description: 'Taken back' },
    ...errors('unauthenticated', 'forbidden', 'not_found'),
  },
})

/** What a person let in, and taking it back. A person is not inside one organization, so neither is the database here. */
export function appRoutes(deps: { sql: Sql; signals: Signals }): Router {
  return createRouter()
    .openapi(list, async (c) => {
      const { cursor, limit } = c.req.valid('query')
      const { apps, nextCursor } = await listApps(deps.sql, { actor: actorOf(c), cursor, limit })
      const shown = apps.map((app) => ({ ...app, since: app.since.toISOString() }))
      return c.json({ apps: shown, nextCursor }, 200)
    })
    .openapi(remove, async (c) => {
      await withdrawApp(deps, { actor: actorOf(c), clientId: c.req.valid('param').clientId })
      return c.body(null, 204)
    })
}
