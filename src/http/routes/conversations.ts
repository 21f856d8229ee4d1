import { createRoute, z } from '@hono/zod-openapi'
import type { Actor } from '../../domain/accounts/actor.ts'
import type { SessionTokens } from '../../domain/accounts/session-token.ts'
import { listAgents } from '../../domain/agents/agents.ts'
import { endConversation } from '../../domain/conversations/end.ts'
import { getConversation } from '../../domain/conversations/get.ts'
import { openConversation } from '../../domain/conversations/open.ts'
import type { ResolveModel } from '../../domain/secrets/choose-model.ts'
import { checkServerReferences } from '../../domain/secrets/servers.ts'
import type { Signals } from '../../domain/signals.ts'
import type { Envelope } from '../../lib/envelope.ts'
import type { Redactions } from '../../lib/redactions.ts'
import { hasOpenStream } from '../../sse/presence.ts'
import { actorOf, databaseOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { afterLast } from '../paging.ts'
import { createRouter, errors, type Router } from '../router.ts'

const Name = z.string().min(1).max(255)
const Domains = z.array(z.string().min(1).max(253)).max(200)

const OpenConversation = z
  .object({
    agentId: Name.optional().openapi({ description: 'Agent to talk to; the default agent when left out' }),
    userId: Name.optional().openapi({ description: "The caller's own name for its user" }),
    thread: Name.optional().openapi({ description: 'Separates conversations of one user; the same names resume' }),
    forceNew: z.boolean().default(false),
    dryRun: z.boolean().default(false).openapi({ description: 'Checks everything and stores nothing' }),
    model: Name.optional().openapi({ example: 'anthropic/claude-sonnet-4-5' }),
    provider: Name.optional().openapi({ description: 'Provider of `model`; alone it means its default model' }),
    networkConfig: z.object({ allowedDomains: Domains.optional(), deniedDomains: Domains.optional() }).optional(),
    mcpServers: z.record(Name, z.looseObject({ url: z.url().optional(), type: z.string().optional() })).optional(),
  })
  .openapi('OpenConversation')

/** A program's token lives an hour, and so does what it makes: taking it back must not leave more. */
const CLIENT_SESSION_MS = 3_600_000

const Conversation = z
  .object({
    success: z.literal(true),
    agentId: z.string().openapi({ description: 'The conversation id, as the next calls take it in their path' }),
    conversationId: z.string(),
    token: z.string().openapi({ description: 'Session token: good for this conversation alone, 24 hours' }),
    expiresAt: z.number().openapi({ description: 'Epoch milliseconds' }),
    sseUrl: z.string(),
    messagesUrl: z.string(),
    warnings: z
      .array(z.string())
      .optional()
      .openapi({ description: 'References to secrets in `mcpServers` that would fail when they are used' }),
  })
  .openapi('Conversation')

const ConversationStatus = z
  .object({
    success: z.literal(true),
    agent: z.object({
      agentId: z.string(),
      userId: z.string(),
      status: z.enum(['idle', 'running']),
      createdAt: z.number(),
      lastActivity: z.number(),
      hasActiveConnection: z.boolean(),
    }),
  })
  .openapi('ConversationStatus')

const AgentList = z
  .object({
    agents: z.array(
      z.object({
        agentId: z.string(),
        name: z.string(),
        description: z.string(),
        createdAt: z.number(),
        lastUsedAt: z.number().nullable(),
        channelCount: z.number(),
      }),
    ),
  })
  .openapi('AgentList')

export const ConversationId = z.object({
  id: z
    .string()
    .min(1)
    .max(128)
    .openapi({ param: { name: 'id', in: 'path' }, description: 'Conversation id' }),
})

const tags = ['Conversations']

const open = createRoute({
  method: 'post',
  path: '/api/v1/agents',
  tags,
  summary: 'Open or resume a conversation with an agent',
  request: { body: { required: false, content: { 'application/json': { schema: OpenConversation } } } },
  security: BEARER,
  responses: {
    200: { description: 'What would be opened (dryRun)', content: { 'application/json': { schema: Conversation } } },
    201: { description: 'Open', content: { 'application/json': { schema: Conversation } } },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found', 'payload_too_large', 'model_unavailable'),
  },
})

const list = createRoute({
  method: 'get',
  path: '/api/v1/agents',
  tags,
  summary: 'The agents of the organization',
  request: {
    query: afterLast({ fallback: 200 }),
  },
  security: BEARER,
  responses: {
    200: { description: 'Agents', content: { 'application/json': { schema: AgentList } } },
    ...errors('invalid_request', 'unauthenticated', 'forbidden'),
  },
})

const get = createRoute({
  method: 'get',
  path: '/api/v1/agents/{id}',
  tags,
  summary: 'How a conversation stands',
  request: { params: ConversationId },
  security: BEARER,
  responses: {
    200: { description: 'Status', content: { 'application/json': { schema: ConversationStatus } } },
    ...errors('unauthenticated', 'not_found'),
  },
})

const end = createRoute({
  method: 'delete',
  path: '/api/v1/agents/{id}',
  tags,
  summary: 'End a conversation: its runs, its workers and its streams, wherever they are',
  request: { params: ConversationId },
  security: BEARER,
  responses: {
    200: {
      description: 'Ended',
      content: { 'application/json': { schema: z.object({ success: z.literal(true) }).openapi('Done') } },
    },
    ...errors('unauthenticated', 'not_found'),
  },
})

export interface ConversationRouteDeps {
  signals: Signals
  tokens: SessionTokens
  publicUrl: string
  resolveModel: ResolveModel
  envelope: Envelope
  redactions: Redactions
}

/** Opening, looking at and ending conversations. The published paths call a conversation an agent. */
export function conversationRoutes(deps: ConversationRouteDeps): Router {
  return createRouter()
    .openapi(open, async (c) => {
      const actor = actorOf(c)
      const { model, provider, networkConfig, mcpServers, ...rest } = c.req.valid('json') ?? OpenConversation.parse({})
      const { organizationId, organizationSlug } = actor
      const sql = databaseOf(c)
      const settings = networkConfig ? { networkConfig: withoutUndefined(networkConfig) } : {}
      const chooseModel = async (agent: string) => {
        const chosen = await deps.resolveModel(model ?? null, { organizationId, agentId: agent }, provider)
        return `${chosen.provider}/${chosen.modelId}`
      }
      const { conversationId, agentId, userId } = await openConversation(sql, {
        ...{ actor, ...rest, settings },
        confidential: mcpServers && { settings: { mcpServers }, envelope: deps.envelope },
        chooseModel: model || provider ? chooseModel : undefined,
      })
      const owner = { organizationId, agentId }
      const warnings = mcpServers ? await checkServerReferences({ ...deps, sql }, { owner, mcpServers }) : []
      const claims = { organizationId, organizationSlug, agentId, userId, conversationId, ...makerOf(actor) }
      const session = await deps.tokens.sign(claims, actor.kind === 'client' ? { msMax: CLIENT_SESSION_MS } : {})
      const url = `${deps.publicUrl}/api/v1/agents/${conversationId}`
      const hints = warnings.length > 0 ? { warnings } : {}
      const body = { success: true as const, agentId: conversationId, conversationId, ...session, ...hints }
      return c.json({ ...body, sseUrl: `${url}/events`, messagesUrl: `${url}/messages` }, rest.dryRun ? 200 : 201)
    })
    .openapi(list, async (c) => {
      const agents = await listAgents(databaseOf(c), { actor: actorOf(c), ...c.req.valid('query') })
      return c.json({ agents: agents.map(toListed) }, 200)
    })
    .openapi(get, async (c) => {
      const conversation = await getConversation(databaseOf(c), {
        actor: actorOf(c),
        conversationId: c.req.valid('param').id,
      })
      const { organizationId, id } = conversation
      const agent = {
        agentId: id,
        userId: conversation.userId,
        status: conversation.openRuns > 0 ? ('running' as const) : ('idle' as const),
        createdAt: conversation.createdAt.getTime(),
        lastActivity: conversation.lastActivityAt.getTime(),
        hasActiveConnection: await hasOpenStream(databaseOf(c), { organizationId, conversationId: id }),
      }
      return c.json({ success: true as const, agent }, 200)
    })
    .openapi(end, async (c) => {
      await endConversation(
        { ...deps, sql: databaseOf(c) },
        { actor: actorOf(c), conversationId: c.req.valid('param').id },
      )
      return c.json({ success: true as const }, 200)
    })
}

/** What the session token depends on: the key that it is made with; or the membership of the person, and their browser session or program. */
function makerOf({ kind, credentialId, userId }: Actor) {
  if (kind === 'key') return { keyId: credentialId }
  return { memberId: userId, ...(kind === 'client' ? { clientId: credentialId } : { sessionId: credentialId }) }
}

function toListed(agent: Awaited<ReturnType<typeof listAgents>>[number]) {
  return {
    agentId: agent.agentId,
    name: agent.name,
    description: agent.description,
    createdAt: agent.createdAt.getTime(),
    lastUsedAt: agent.lastUsedAt?.getTime() ?? null,
    channelCount: 0,
  }
}

function withoutUndefined<T extends object>(value: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, inner]) => inner !== undefined)) as never
}
