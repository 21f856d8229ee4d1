import { createRoute, z } from '@hono/zod-openapi'
import {
  type Agent as AgentRow,
  createAgent,
  deleteAgent,
  getAgent,
  listAgents,
  updateAgent,
} from '../../domain/agents/agents.ts'
import type { ResolveModel } from '../../domain/secrets/choose-model.ts'
import type { Signals } from '../../domain/signals.ts'
import { actorOf, databaseOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { afterLast } from '../paging.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { Org } from './organizations.ts'

const AgentId = z
  .string()
  .regex(/^[a-z][a-z0-9-]{2,59}$/, 'must have 3 to 60 lower-case letters, digits and hyphens and start with a letter')
const Fields = z.object({
  name: z.string().min(1).max(200),
  description: z.string().max(2000),
  model: z.string().min(1).max(200).nullable().openapi({ example: 'anthropic/claude-sonnet-4-5' }),
  instructions: z.string().max(100_000),
})

const CreateAgent = z
  .object({
    agentId: AgentId,
    name: Fields.shape.name.optional(),
    description: Fields.shape.description.default(''),
    model: Fields.shape.model.default(null),
    instructions: Fields.shape.instructions.default(''),
  })
  .openapi('CreateAgent')

const UpdateAgent = Fields.partial().openapi('UpdateAgent')

const Agent = z
  .object({
    agentId: z.string(),
    ...Fields.shape,
    isDefault: z.boolean(),
    createdAt: z.number().openapi({ description: 'Epoch milliseconds' }),
    updatedAt: z.number(),
    lastUsedAt: z.number().nullable(),
  })
  .openapi('Agent')

const OrgAgent = Org.extend({ agentId: z.string().min(1).max(100) })
const tags = ['Agents']
const agentBody = { 'application/json': { schema: z.object({ agent: Agent }) } }

const list = createRoute({
  method: 'get',
  path: '/api/{org}/agents',
  tags,
  summary: 'The agents of an organization',
  request: {
    params: Org,
    query: afterLast(),
  },
  security: BEARER,
  responses: {
    200: { description: 'A page', content: { 'application/json': { schema: z.object({ agents: z.array(Agent) }) } } },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found'),
  },
})

const create = createRoute({
  method: 'post',
  path: '/api/{org}/agents',
  tags,
  summary: 'Make an agent',
  request: { params: Org, body: { required: true, content: { 'application/json': { schema: CreateAgent } } } },
  security: BEARER,
  responses: {
    200: { description: 'The same agent was there', content: agentBody },
    201: { description: 'Made', content: agentBody },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found', 'conflict', 'limit_reached'),
    ...errors('invalid_request', 'model_unavailable'),
  },
})

const get = createRoute({
  method: 'get',
  path: '/api/{org}/agents/{agentId}',
  tags,
  summary: 'One agent',
  request: { params: OrgAgent },
  security: BEARER,
  responses: {
    200: { description: 'Agent', content: agentBody },
    ...errors('unauthenticated', 'forbidden', 'not_found'),
  },
})

const update = createRoute({
  method: 'patch',
  path: '/api/{org}/agents/{agentId}',
  tags,
  summary: 'Change an agent',
  request: { params: OrgAgent, body: { required: true, content: { 'application/json': { schema: UpdateAgent } } } },
  security: BEARER,
  responses: {
    200: { description: 'Changed', content: agentBody },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found', 'model_unavailable'),
  },
})

const remove = createRoute({
  method: 'delete',
  path: '/api/{org}/agents/{agentId}',
  tags,
  summary: 'Remove an agent with its conversations',
  request: { params: OrgAgent },
  security: BEARER,
  responses: {
    204: { description: 'Removed' },
    ...errors('unauthenticated', 'forbidden', 'not_found', 'conflict'),
  },
})

export interface AgentRouteDeps {
  signals: Signals
  resolveModel: ResolveModel
}

/** The agents of an organization: name, model and instructions. */
export function agentRoutes({ signals, resolveModel }: AgentRouteDeps): Router {
  return createRouter()
    .openapi(list, async (c) => {
      const agents = await listAgents(databaseOf(c), { actor: actorOf(c), ...c.req.valid('query') })
      return c.json({ agents: agents.map(toAgent) }, 200)
    })
    .openapi(create, async (c) => {
      const { agentId, name, ...rest } = c.req.valid('json')
      const actor = actorOf(c)
      if (rest.model) await resolveModel(rest.model, { organizationId: actor.organizationId, agentId })
      const fields = { name: name ?? agentId, ...rest }
      const { agent, created } = await createAgent(databaseOf(c), { actor, agentId, fields })
      return c.json({ agent: toAgent(agent) }, created ? 201 : 200)
    })
    .openapi(get, async (c) => {
      const agent = await getAgent(databaseOf(c), { actor: actorOf(c), agentId: c.req.valid('param').agentId })
      return c.json({ agent: toAgent(agent) }, 200)
    })
    .openapi(update, async (c) => {
      const fields = Object.fromEntries(Object.entries(c.req.valid('json')).filter(([, value]) => value !== undefined))
      const [actor, { agentId }] = [actorOf(c), c.req.valid('param')]
      const owner = { organizationId: actor.organizationId, agentId }
      if (typeof fields.model === 'string') await resolveModel(fields.model, owner)
      const agent = await updateAgent(databaseOf(c), { actor, agentId, fields })
      return c.json({ agent: toAgent(agent) }, 200)
    })
    .openapi(remove, async (c) => {
      await deleteAgent({ sql: databaseOf(c), signals }, { actor: actorOf(c), agentId: c.req.valid('param').agentId })
      return c.body(null, 204)
    })
}

function toAgent(agent: AgentRow) {
  return {
    ...agent,
    createdAt: agent.createdAt.getTime(),
    updatedAt: agent.updatedAt.getTime(),
    lastUsedAt: agent.lastUsedAt?.getTime() ?? null,
  }
}
