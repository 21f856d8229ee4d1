import { createRoute, z } from '@hono/zod-openapi'
import type { Context } from 'hono'
import type { Sql } from '../../db/client.ts'
import { getConversation } from '../../domain/conversations/get.ts'
import { type StoredFile, storeFile } from '../../domain/files/files.ts'
import type { Backlog } from '../../domain/limits/backlog.ts'
import type { Budgets } from '../../domain/limits/budget.ts'
import { findRefusal, type LocalRunner, type PostOptions, postMessage } from '../../domain/messages/post.ts'
import { cancelRuns } from '../../domain/runs/cancel.ts'
import type { Signals } from '../../domain/signals.ts'
import { AppError } from '../../lib/errors.ts'
import { actorOf, databaseOf } from '../actor.ts'
import type { Env } from '../env.ts'
import { refuseInvalid } from '../errors.ts'
import { isMultipart, readMultipart } from '../multipart.ts'
import { BEARER } from '../openapi.ts'
import { addLogFields } from '../request-log.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { ConversationId } from './conversations.ts'

/** Longest message text. */
const CONTENT_CHARS_MAX = 100_000

const Text = z.string().max(CONTENT_CHARS_MAX)
const Id = z.string().min(1).max(200)
const Place = z.record(z.string().max(100), z.unknown())

const PostMessage = z
  .object({
    content: Text.optional().openapi({ description: 'What the user says' }),
    message: Text.optional().openapi({ description: 'Alias of content' }),
    messageId: Id.optional().openapi({ description: 'Idempotency key for the life of the conversation' }),
    platform: z.string().max(100).optional(),
    slack: Place.optional(),
    telegram: Place.optional(),
    discord: Place.optional(),
    whatsapp: Place.optional(),
    platformMetadata: Place.optional(),
    onBusy: z.enum(['enqueue', 'steer', 'interrupt', 'reject']).default('enqueue'),
    webhookUrl: z
      .url({ protocol: /^https?$/ })
      .max(2048)
      .optional()
      .openapi({ description: 'Called when the run ends; signed, and retried until it answers 2xx' }),
  })
  .openapi('PostMessage')

const Posted = z
  .object({
    success: z.literal(true),
    messageId: z.string(),
    jobId: z.string(),
    runId: z.string(),
    queued: z.literal(true),
    traceparent: z.string().optional(),
  })
  .openapi('Posted')

const Cancel = z.object({ messageId: Id.optional(), runId: Id.optional() }).openapi('Cancel')

const Cancelled = z
  .object({
    success: z.literal(true),
    cancelled: z.array(z.object({ runId: z.string(), messageId: z.string() })),
  })
  .openapi('Cancelled')

const tags = ['Messages']

const post = createRoute({
  method: 'post',
  path: '/api/v1/agents/{id}/messages',
  tags,
  summary: 'Send a message; answered when it is stored and its run is queued',
  request: {
    params: ConversationId,
    headers: z.object({ 'idempotency-key': Id.optional() }),
    body: {
      required: false,
      content: {
        'application/json': { schema: PostMessage },
        'multipart/form-data': {
          schema: {
            type: 'object',
            description:
              'The fields of the JSON form as text, objects as JSON, and up to 10 files of 50 MB, 100 MB in all',
            properties: {
              content: { type: 'string' },
              messageId: { type: 'string' },
              onBusy: { type: 'string', enum: ['enqueue', 'steer', 'interrupt', 'reject'] },
              webhookUrl: { type: 'string' },
              platformMetadata: { type: 'string' },
              files: { type: 'array', items: { type: 'string', format: 'binary' } },
            },
          },
        },
      },
    },
  },
  security: BEARER,
  responses: {
    200: { description: 'Accepted', content: { 'application/json': { schema: Posted } } },
    ...errors(
      ...(['invalid_request', 'unauthenticated', 'not_found', 'conversation_busy', 'payload_too_large'] as const),
      ...(['unsupported_media_type', 'idempotency_mismatch', 'queue_full', 'budget_exhausted', 'draining'] as const),
    ),
  },
})

const cancel = createRoute({
  method: 'post',
  path: '/api/v1/agents/{id}/cancel',
  tags,
  summary: 'Cancel one run, or all that are unfinished; durable when answered',
  request: { params: ConversationId, body: { required: false, content: { 'application/json': { schema: Cancel } } } },
  security: BEARER,
  responses: {
    200: {
      description: 'Cancelled; runs that had ended are not listed',
      content: { 'application/json': { schema: Cancelled } },
    },
    ...errors('invalid_request', 'unauthenticated', 'not_found'),
  },
})

export interface MessageRouteDeps {
  signals: Signals
  runner: LocalRunner
  options: PostOptions
  budgets: Budgets
  backlog: Backlog
  /** @throws AppError 'invalid_request' for a URL that may not be called. */
  checkWebhookUrl(url: string): void
}

/** Sending messages and cancelling what they started. */
export function messageRoutes(deps: MessageRouteDeps): Router {
  return createRouter()
    .openapi(post, async (c) => {
      const actor = actorOf(c)
      const conversationId = c.req.valid('param').id
      // Before any file is stored: a stranger's upload must cost nothing.
      if (isMultipart(c)) await admitUpload(deps, c, conversationId)
      const { body, files } = isMultipart(c) ? await readUpload(databaseOf(c), c, conversationId) : readJson(c)
      const { content, message, messageId, onBusy = 'enqueue', webhookUrl, ...origin } = body
      if (webhookUrl) deps.checkWebhookUrl(webhookUrl)
      const accepted = await postMessage(
        { ...deps, sql: databaseOf(c) },
        {
          ...{ actor, conversationId, messageId, onBusy, webhookUrl, files, origin },
          content: requireContent(content ?? message, files),
          idempotencyKey: c.req.valid('header')['idempotency-key'],
          traceparent: c.get('traceparent'),
        },
        deps.options,
      )
      addLogFields(c, { conversationId, runId: accepted.runId, duplicate: accepted.duplicate })
      const { runId, traceparent } = accepted
      const answer = {
        success: true as const,
        messageId: accepted.messageId,
        jobId: runId,
        runId,
        queued: true as const,
      }
      return c.json(traceparent ? { ...answer, traceparent } : answer, 200)
    })
    .openapi(cancel, async (c) => {
      const actor = actorOf(c)
      const conversationId = c.req.valid('param').id
      const { organizationId } = await getConversation(databaseOf(c), { actor, conversationId })
      const ended = await cancelRuns(
        { ...deps, sql: databaseOf(c) },
        { organizationId, conversationId, ...c.req.valid('json') },
      )
      return c.json(
        { success: true as const, cancelled: ended.map(({ id, messageId }) => ({ runId: id, messageId })) },
        200,
      )
    })
}

/** @throws AppError 'not_found', 'budget_exhausted', 'queue_full' */
async function admitUpload(deps: MessageRouteDeps, c: Context<Env>, conversationId: string) {
  const actor = actorOf(c)
  await getConversation(databaseOf(c), { actor, conversationId })
  const refusal = await findRefusal(deps, actor.organizationId)
  if (refusal) throw refusal
}

interface Upload {
  body: Partial<z.infer<typeof PostMessage>>
  files: StoredFile[]
}

/** The body that the route's schema has checked; an absent one is empty. The types of two media types do not say so. */
function readJson(c: Context<Env>): Upload {
  return { body: c.req.valid('json' as never), files: [] }
}

async function readUpload(sql: Sql, c: Context<Env>, conversationId: string): Promise<Upload> {
  const files: StoredFile[] = []
  const { organizationId } = actorOf(c)
  const { fields } = await readMultipart(c, {
    onFile: async ({ name, mediaType }, bytes) => {
      files.push(await storeFile(sql, { organizationId, conversationId, name, mediaType }, bytes))
    },
  })
  const parsed = PostMessage.safeParse(
    Object.fromEntries(Object.entries(fields).map(([name, text]) => [name, unpack(name, text)])),
  )
  refuseInvalid({ ...parsed, target: 'form' })
  return { body: parsed.data ?? {}, files }
}

/** Objects travel as JSON text in a form. */
function unpack(name: string, text: string): unknown {
  if (!['slack', 'telegram', 'discord', 'whatsapp', 'platformMetadata'].includes(name)) return text
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

function requireContent(content: string | undefined, files: StoredFile[]): string {
  if (content?.trim() || files.length > 0) return content ?? ''
  throw new AppError('invalid_request', 'content: is required')
}
