import { createRoute, z } from '@hono/zod-openapi'
import { listUsage, readUsage, USAGE_GROUPS } from '../../domain/usage/read-usage.ts'
import { toUsageCsv } from '../../domain/usage/usage-csv.ts'
import { AppError } from '../../lib/errors.ts'
import { actorOf, databaseOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { afterLast } from '../paging.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { Org } from './organizations.ts'

const DAYS_MAX = 366
const DAY_MS = 86_400_000

const Day = z.iso.date().openapi({ description: 'A day of UTC', example: '2026-01-31' })
const Range = z.object({ from: Day.optional(), to: Day.optional() })

const Sums = z
  .object({
    runs: z.number().openapi({ description: 'Runs that have ended and had an answer of a model' }),
    inputTokens: z.number(),
    outputTokens: z.number(),
    cachedInputTokens: z.number().openapi({ description: 'Part of the input tokens' }),
    costMicros: z.number().openapi({ description: 'Millionths of a US dollar' }),
    unpricedRuns: z.number().openapi({ description: 'Runs of models without a price, which are not in the cost' }),
  })
  .openapi('UsageSums')

const UsageReport = z
  .object({
    from: Day,
    to: Day,
    group: z.enum(USAGE_GROUPS),
    rows: z.array(
      Sums.extend({ key: z.string().openapi({ description: 'The day, or the id of agent, model or user' }) }),
    ),
    nextCursor: z.string().nullable(),
    total: Sums.openapi({ description: 'Of the whole range' }),
    unpricedModels: z.array(z.string()).openapi({ description: 'Models of the range that have no price' }),
  })
  .openapi('UsageReport')

const tags = ['Usage and limits']

const report = createRoute({
  method: 'get',
  path: '/api/{org}/usage',
  tags,
  summary: 'What was used, by day, agent, model or user; without a range the running month',
  request: {
    params: Org,
    query: afterLast({ fallback: 400, max: 1000 }).extend({
      ...Range.shape,
      group: z.enum(USAGE_GROUPS).default('day'),
    }),
  },
  security: BEARER,
  responses: {
    200: { description: 'A page', content: { 'application/json': { schema: UsageReport } } },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found'),
  },
})

const csv = createRoute({
  method: 'get',
  path: '/api/{org}/usage.csv',
  tags,
  summary: 'The same as a table: a row for each day, agent, model and user',
  request: { params: Org, query: Range },
  security: BEARER,
  responses: {
    200: { description: 'CSV', content: { 'text/csv': { schema: z.string() } } },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found'),
  },
})

/** What an organization has used, and what it cost. */
export function usageRoutes(): Router {
  return createRouter()
    .openapi(report, async (c) => {
      const { from, to, ...page } = c.req.valid('query')
      const range = toRange({ from, to })
      const usage = await readUsage(databaseOf(c), { actor: actorOf(c), ...range, ...page })
      return c.json({ ...range, group: page.group, ...usage }, 200)
    })
    .openapi(csv, async (c) => {
      const range = toRange(c.req.valid('query'))
      const lines = toUsageCsv(listUsage(databaseOf(c), { actor: actorOf(c), ...range }))
      // The head and the first page come before the status: what cannot be read is an error and no half file.
      const head = (await lines.next()).value ?? ''
      const first = (await lines.next()).value ?? ''
      c.header('content-type', 'text/csv; charset=utf-8')
      c.header('content-disposition', `attachment; filename="usage-${range.from}-${range.to}.csv"`)
      return c.body(streamOf(head + first, lines)) as never
    })
}

/** A stream that reads on only as fast as its reader does, and stops reading when that goes away. */
function streamOf(first: string, rest: AsyncGenerator<string>): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder()
  return new ReadableStream({
    start: (controller) => controller.enqueue(encoder.encode(first)),
    async pull(controller) {
      const { value, done } = await rest.next()
      if (done) controller.close()
      else controller.enqueue(encoder.encode(value))
    },
    cancel: async () => void (await rest.return(undefined)),
  })
}

/** @throws AppError 'invalid_request' for a range that is empty or longer than a year. */
function toRange({ from, to }: { from?: string | undefined; to?: string | undefined }) {
  const today = new Date().toISOString().slice(0, 10)
  const end = to ?? today
  const start = from ?? `${end.slice(0, 8)}01`
  const days = (Date.parse(end) - Date.parse(start)) / DAY_MS + 1
  if (days >= 1 && days <= DAYS_MAX) return { from: start, to: end }
  throw new AppError('invalid_request', `query from, to: a range has 1 to ${DAYS_MAX} days`)
}
