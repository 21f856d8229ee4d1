import { createRoute, z } from '@hono/zod-openapi'
import { OPEN } from '../openapi.ts'
import { createRouter, type Router } from '../router.ts'

const Health = z
  .object({ status: z.literal('ok'), service: z.literal('lobu'), version: z.string(), timestamp: z.iso.datetime() })
  .openapi('Health')

const Subsystem = z
  .object({ state: z.enum(['ok', 'degraded', 'starting', 'down', 'draining']), detail: z.string().optional() })
  .openapi('Subsystem')

const Readiness = z
  .looseObject({ ready: z.boolean(), subsystems: z.record(z.string(), Subsystem) })
  .openapi('Readiness', { description: 'Every required subsystem by name; further fields say what runs here' })

/** What `readiness` reports; fields beside `ready` and `subsystems` are passed on as they are. */
export type Readiness = z.infer<typeof Readiness>

const alive = createRoute({
  method: 'get',
  path: '/health',
  tags: ['Operations'],
  summary: 'The process is alive',
  security: OPEN,
  responses: { 200: { description: 'Alive', content: { 'application/json': { schema: Health } } } },
})

const ready = createRoute({
  method: 'get',
  path: '/health/ready',
  tags: ['Operations'],
  summary: 'This replica can take work',
  security: OPEN,
  responses: {
    200: { description: 'Ready', content: { 'application/json': { schema: Readiness } } },
    503: {
      description: 'Starting, draining, or a part is down',
      content: { 'application/json': { schema: Readiness } },
    },
  },
})

/** Liveness, which is the event loop alone, and readiness, which names each subsystem. `readiness` bounds its own waits. */
export function healthRoutes(deps: { version: string; readiness(): Promise<Readiness> }): Router {
  return createRouter()
    .openapi(alive, (c) => {
      const timestamp = new Date().toISOString()
      return c.json({ status: 'ok' as const, service: 'lobu' as const, version: deps.version, timestamp }, 200)
    })
    .openapi(ready, async (c) => {
      const report = await deps.readiness()
      if (report.ready) return c.json(report, 200)
      return c.json(report, 503, { 'retry-after': '1' })
    })
}
