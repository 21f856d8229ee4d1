import { Readable } from 'node:stream'
import { createRoute, z } from '@hono/zod-openapi'
import { exportAudit } from '../../domain/audit/export.ts'
import { type AuditRecord, listAudit } from '../../domain/audit/list.ts'
import { getAuditRetention, setAuditRetention } from '../../domain/audit/retention.ts'
import { actorOf, databaseOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { byCursor } from '../paging.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { Org } from './organizations.ts'

const Time = z.iso.datetime({ offset: true }).transform((text) => new Date(text))
const Filter = z.object({
  action: z
    .string()
    .max(100)
    .optional()
    .openapi({ description: 'With a dot at its end: all that begin so', example: 'key.' }),
  actor: z.string().max(200).optional().openapi({ description: 'Id of a person or a credential' }),
  target: z.string().max(300).optional().openapi({ description: 'Id of what it was done to' }),
  from: Time.optional(),
  to: Time.optional().openapi({ description: 'Not included' }),
})
const AuditEntry = z
  .object({
    id: z.string(),
    at: z.number().openapi({ description: 'Epoch milliseconds' }),
    actor: z.object({
      kind: z.string(),
      id: z.string(),
      userId: z.string().nullable(),
      email: z.string().nullable(),
    }),
    action: z.string().openapi({ example: 'key.created' }),
    target: z.object({ kind: z.string(), id: z.string() }),
    ip: z.string().nullable(),
    userAgent: z.string().nullable(),
    requestId: z.string().nullable(),
    details: z.record(z.string(), z.unknown()),
  })
  .openapi('AuditEntry')
const tags = ['Audit log']

const list = createRoute({
  method: 'get',
  path: '/api/{org}/audit',
  tags,
  summary: 'Who did what, the newest first',
  request: {
    params: Org,
    query: byCursor().extend(Filter.shape),
  },
  security: BEARER,
  responses: {
    200: {
      description: 'A page',
      content: {
        'application/json': {
          schema: z.object({ entries: z.array(AuditEntry), nextCursor: z.string().nullable() }),
        },
      },
    },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found'),
  },
})

const csv = createRoute({
  method: 'get',
  path: '/api/{org}/audit.csv',
  tags,
  summary: 'The same as CSV, all of it',
  request: { params: Org, query: Filter },
  security: BEARER,
  responses: {
    200: { description: 'CSV with a line of names first', content: { 'text/csv': { schema: z.string() } } },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found'),
  },
})

const Retention = z
  .object({
    days: z.number().nullable().openapi({ description: "Null takes the gateway's setting" }),
    inForceDays: z.number(),
  })
  .openapi('AuditRetention')
const retention = { description: 'Days', content: { 'application/json': { schema: Retention } } }

const getRetention = createRoute({
  method: 'get',
  path: '/api/{org}/audit/retention',
  tags,
  summary: 'How long entries are kept',
  request: { params: Org },
  security: BEARER,
  responses: { 200: retention, ...errors('unauthenticated', 'forbidden', 'not_found') },
})

const putRetention = createRoute({
  method: 'put',
  path: '/api/{org}/audit/retention',
  tags,
  summary: 'Sets how long entries are kept',
  request: {
    params: Org,
    body: {
      required: true,
      content: { 'application/json': { schema: z.object({ days: z.int().min(1).max(36_500).nullable() }) } },
    },
  },
  security: BEARER,
  responses: { 200: retention, ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found') },
})

/** The audit log, for owners. */
export function auditRoutes({ auditKeepDays: defaultDays }: { auditKeepDays: number }): Router {
  return createRouter()
    .openapi(getRetention, async (c) => {
      return c.json(await getAuditRetention(databaseOf(c), { actor: actorOf(c), defaultDays }), 200)
    })
    .openapi(putRetention, async (c) => {
      const args = { actor: actorOf(c), days: c.req.valid('json').days, defaultDays }
      return c.json(await setAuditRetention(databaseOf(c), args), 200)
    })
    .openapi(list, async (c) => {
      const { cursor: after, limit, actor: by, ...filter } = c.req.valid('query')
      const entries = await listAudit(databaseOf(c), { actor: actorOf(c), limit, after, by, ...filter })
      const nextCursor = entries.length === limit ? entries.at(-1)!.id : null
      return c.json({ entries: entries.map(toEntry), nextCursor }, 200)
    })
    .openapi(csv, async (c) => {
      const { actor: by, ...filter } = c.req.valid('query')
      const lines = await exportAudit(databaseOf(c), { actor: actorOf(c), filter: { by, ...filter } })
      const headers = {
        'content-type': 'text/csv; charset=utf-8',
        'content-disposition': 'attachment; filename="audit.csv"',
      }
      return c.body(Readable.toWeb(Readable.from(encoded(lines))) as unknown as globalThis.ReadableStream, 200, headers)
    })
}

async function* encoded(lines: AsyncIterable<string>) {
  for await (const piece of lines) yield Buffer.from(piece)
}

function toEntry(entry: AuditRecord) {
  const { id, at, action, ip, userAgent, requestId, details } = entry
  return {
    ...{ id, at: at.getTime(), action, ip, userAgent, requestId, details },
    actor: { kind: entry.actorKind, id: entry.actorId, userId: entry.userId, email: entry.userEmail },
    target: { kind: entry.targetKind, id: entry.targetId },
  }
}
