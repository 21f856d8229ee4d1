import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import { type Actor, requireKey } from '../accounts/actor.ts'

export interface Agent {
  agentId: string
  name: string
  description: string
  /** `provider/model`; null takes the gateway's default. */
  model: string | null
  instructions: string
  isDefault: boolean
  createdAt: Date
  updatedAt: Date
  lastUsedAt: Date | null
}

export interface AgentFields {
  name: string
  description: string
  model: string | null
  instructions: string
}

/** Agents shown on one page; `after` continues behind an id. */
export async function listAgents(
  sql: Sql,
  { actor, limit, after }: { actor: Actor; limit: number; after?: string | undefined },
): Promise<Agent[]> {
  requireKey(actor)
  return sql<Agent[]>`
    select ${columns(sql)} from agents
    where organization_id = ${actor.organizationId} and id > ${after ?? ''} order by id limit ${limit}`
}

/** @throws AppError 'not_found' */
export async function getAgent(sql: Sql, { actor, agentId }: { actor: Actor; agentId: string }): Promise<Agent> {
  requireKey(actor)
  const [row] = await sql<Agent[]>`
    select ${columns(sql)} from agents where organization_id = ${actor.organizationId} and id = ${agentId}`
  if (!row) throw new AppError('not_found', 'No such agent')
  return row
}

/**
 * Makes an agent. The same call again is answered with the agent that is there.
 * @throws AppError 'conflict' when the id belongs to an agent with other fields.
 */
export async function createAgent(
  sql: Sql,
  { actor, agentId, fields }: { actor: Actor; agentId: string; fields: AgentFields },
): Promise<{ agent: Agent; created: boolean }> {
  requireKey(actor)
  const [made] = await sql<Agent[]>`
    insert into agents (organization_id, id, name, description, model, instructions)
    values (${actor.organizationId}, ${agentId}, ${fields.name}, ${fields.description}, ${fields.model},
      ${fields.instructions})
    on conflict (organization_id, id) do nothing returning ${columns(sql)}`
  if (made) return { agent: made, created: true }
  const agent = await getAgent(sql, { actor, agentId })
  const same = (Object.keys(fields) as (keyof AgentFields)[]).every((key) => agent[key] === fields[key])
  if (!same) throw new AppError('conflict', 'An agent with this id exists and differs; change it with PATCH')
  return { agent, created: false }
}

/** Changes the given fields. @throws AppError 'not_found' */
export async function updateAgent(
  sql: Sql,
  { actor, agentId, fields }: { actor: Actor; agentId: string; fields: Partial<AgentFields> },
): Promise<Agent> {
  const current = await getAgent(sql, { actor, agentId })
  const next = { ...current, ...fields }
  const [row] = await sql<Agent[]>`
    update agents set name = ${next.name}, description = ${next.description}, model = ${next.model},
      instructions = ${next.instructions}, updated_at = now()
    where organization_id = ${actor.organizationId} and id = ${agentId} returning ${columns(sql)}`
  if (!row) throw new AppError('not_found', 'No such agent')
  return row
}

/**
 * Removes an agent with its conversations. The organization's default agent stays, and so does one that is answering.
 * @throws AppError 'not_found', 'conflict'
 */
export async function deleteAgent(sql: Sql, { actor, agentId }: { actor: Actor; agentId: string }): Promise<void> {
  const agent = await getAgent(sql, { actor, agentId })
  if (agent.isDefault) throw new AppError('conflict', 'The default agent cannot be removed')
  const removed = await sql`
    delete from agents a where organization_id = ${actor.organizationId} and id = ${agentId}
      and not exists (select 1 from conversations c where c.organization_id = a.organization_id and c.agent_id = a.id
        and c.open_runs > 0)
    returning 1`
  if (removed.length === 0) throw new AppError('conflict', 'The agent is answering; cancel its runs first')
}

function columns(sql: Sql) {
  return sql`id as "agentId", name, description, model, instructions, is_default as "isDefault",
    created_at as "createdAt", updated_at as "updatedAt", last_used_at as "lastUsedAt"`
}
