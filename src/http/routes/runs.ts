import { createRoute, z } from '@hono/zod-openapi'
import { getConversation } from '../../domain/conversations/get.ts'
import { historyStats, pageHistory } from '../../domain/messages/history.ts'
import { getRun } from '../../domain/runs/get.ts'
import { actorOf, databaseOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { byCursor } from '../paging.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { ConversationId } from './conversations.ts'

const Usage = z
  .object({ inputTokens: z.number(), outputTokens: z.number(), cachedInputTokens: z.number() })
  .openapi('Usage')

const Run = z
  .object({
    success: z.literal(true),
    runId: z.string(),
    agentId: z.string(),
    conversationId: z.string(),
    messageId: z.string(),
    status: z.enum(['queued', 'running', 'completed', 'failed', 'cancelled']),
    attempt: z.number(),
    model: z.string().nullable(),
    result: z.string().nullable(),
    usage: Usage.nullable(),
    error: z.object({ code: z.string(), message: z.string() }).nullable(),
    createdAt: z.number().openapi({ description: 'Epoch milliseconds, as all times here' }),
    startedAt: z.number().nullable(),
    endedAt: z.number().nullable(),
    traceparent: z.string().nullable(),
  })
  .openapi('Run')

const HistoryMessage = z
  .object({
    id: z.string(),
    type: z.literal('message'),
    role: z.string(),
    content: z.string(),
    model: z.string().nullable(),
    timestamp: z.number(),
    usage: Usage.nullable(),
    run: Run.pick({ runId: true, status: true, error: true })
      .nullable()
      .openapi({ description: 'How the turn that answers a question stands or ended; null with answers' }),
  })
  .openapi('HistoryMessage')

const HistoryPage = z
  .object({
    messages: z.array(HistoryMessage),
    nextCursor: z.string().nullable(),
    hasMore: z.boolean(),
    sessionId: z.string(),
  })
  .openapi('HistoryPage')

const HistoryStats = z
  .object({
    messageCount: z.number(),
    userMessageCount: z.number(),
    assistantMessageCount: z.number(),
    usage: Usage,
    firstMessageAt: z.number().nullable(),
    lastMessageAt: z.number().nullable(),
    sessionId: z.string(),
  })
  .openapi('HistoryStats')

const HistoryStatus = z
  .object({
    agentId: z.string(),
    sessionId: z.string(),
    connected: z.boolean(),
    status: z.enum(['idle', 'running']),
    lastActivity: z.number(),
  })
  .openapi('HistoryStatus')

const tags = ['History']

const run = createRoute({
  method: 'get',
  path: '/api/v1/runs/{runId}',
  tags: ['Messages'],
  summary: 'How a run stands or ended',
  request: { params: z.object({ runId: z.string().min(1).max(64) }) },
  security: BEARER,
  responses: {
    200: { description: 'Run', content: { 'application/json': { schema: Run } } },
    ...errors('unauthenticated', 'not_found'),
  },
})

const messages = createRoute({
  method: 'get',
  path: '/api/v1/agents/{id}/history/session/messages',
  tags,
  summary: 'What was said, oldest first',
  description: 'A page ends early where its text reaches 1 MiB.',
  request: {
    params: ConversationId,
    query: byCursor({ fallback: 50, max: 200 }),
  },
  security: BEARER,
  responses: {
    200: { description: 'A page', content: { 'application/json': { schema: HistoryPage } } },
    ...errors('invalid_request', 'unauthenticated', 'not_found'),
  },
})

const stats = createRoute({
  method: 'get',
  path: '/api/v1/agents/{id}/history/session/stats',
  tags,
  summary: 'Counts and token sums of a conversation',
  request: { params: ConversationId },
  security: BEARER,
  responses: {
    200: { description: 'Sums', content: { 'application/json': { schema: HistoryStats } } },
    ...errors('unauthenticated', 'not_found'),
  },
})

const status = createRoute({
  method: 'get',
  path: '/api/v1/agents/{id}/history/status',
  tags,
  summary: 'Whether a conversation is being answered',
  request: { params: ConversationId },
  security: BEARER,
  responses: {
    200: { description: 'Status', content: { 'application/json': { schema: HistoryStatus } } },
    ...errors('unauthenticated', 'not_found'),
  },
})

/** Reading what happened: runs and the transcript. */
export function historyRoutes(): Router {
  return createRouter()
    .openapi(run, async (c) => {
      const view = await getRun(databaseOf(c), { actor: actorOf(c), runId: c.req.valid('param').runId })
      return c.json({ success: true as const, ...view }, 200)
    })
    .openapi(messages, async (c) => {
      const page = { actor: actorOf(c), conversationId: c.req.valid('param').id, ...c.req.valid('query') }
      return c.json(await pageHistory(databaseOf(c), page), 200)
    })
    .openapi(stats, async (c) => {
      const conversationId = c.req.valid('param').id
      return c.json(
        { ...(await historyStats(databaseOf(c), { actor: actorOf(c), conversationId })), sessionId: conversationId },
        200,
      )
    })
    .openapi(status, async (c) => {
      const conversation = await getConversation(databaseOf(c), {
        actor: actorOf(c),
        conversationId: c.req.valid('param').id,
      })
      return c.json(
        {
          agentId: conversation.id,
          sessionId: conversation.id,
          connected: true,
          status: conversation.openRuns > 0 ? ('running' as const) : ('idle' as const),
          lastActivity: conversation.lastActivityAt.getTime(),
        },
        200,
      )
    })
}
