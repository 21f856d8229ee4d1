import { createRoute, z } from '@hono/zod-openapi'
import type { DefaultLimits } from '../../domain/limits/limits.ts'
import { getLimits, setLimits } from '../../domain/limits/manage.ts'
import type { Signals } from '../../domain/signals.ts'
import { actorOf, databaseOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { Org } from './organizations.ts'

const Rate = z.number().int().min(1).max(100_000_000).nullable()
const Amount = z.number().int().min(0).max(1_000_000_000_000_000).nullable()

const Limits = z
  .object({
    requestsPerMinute: Rate.openapi({ description: 'Requests of the whole organization' }),
    keyRequestsPerMinute: Rate.openapi({ description: 'Requests of each API key' }),
    runsMax: z.number().int().min(1).max(1_000_000).nullable().openapi({ description: 'Turns that run at once' }),
    tokensPerMonth: Amount.openapi({ description: 'Input and output tokens in a calendar month (UTC)' }),
    costMicrosPerMonth: Amount.openapi({ description: 'Millionths of a US dollar in a calendar month (UTC)' }),
  })
  .openapi('Limits')

const SetLimits = z.strictObject(Limits.shape).openapi('SetLimits')

const LimitsView = z
  .object({
    limits: Limits.openapi({ description: "What is set for this organization; null takes the gateway's setting" }),
    inForce: Limits.openapi({ description: 'What holds; null is no limit' }),
    used: z.object({
      month: z.string().openapi({ example: '2026-01' }),
      tokens: z.number(),
      costMicros: z.number(),
      secondsLeft: z.number().openapi({ description: 'Until the month ends' }),
      runsActive: z.number(),
    }),
  })
  .openapi('LimitsView')

const tags = ['Usage and limits']
const answer = { description: 'Limits', content: { 'application/json': { schema: LimitsView } } }

const get = createRoute({
  method: 'get',
  path: '/api/{org}/limits',
  tags,
  summary: 'The limits of an organization, and what is used of them this month',
  request: { params: Org },
  security: BEARER,
  responses: { 200: answer, ...errors('unauthenticated', 'forbidden', 'not_found') },
})

const put = createRoute({
  method: 'put',
  path: '/api/{org}/limits',
  tags,
  summary: 'Replace the limits of an organization; in force on every replica at once',
  request: { params: Org, body: { required: true, content: { 'application/json': { schema: SetLimits } } } },
  security: BEARER,
  responses: { 200: answer, ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found') },
})

/** What an organization may use. */
export function limitRoutes({ signals, defaultLimits }: { signals: Signals; defaultLimits: DefaultLimits }): Router {
  return createRouter()
    .openapi(get, async (c) => c.json(await getLimits(databaseOf(c), { actor: actorOf(c) }, defaultLimits), 200))
    .openapi(put, async (c) => {
      const deps = { sql: databaseOf(c), signals }
      return c.json(await setLimits(deps, { actor: actorOf(c), limits: c.req.valid('json') }, defaultLimits), 200)
    })
}
