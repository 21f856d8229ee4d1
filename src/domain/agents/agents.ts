import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { AppError } from '../../lib/errors.ts'
import { removeLogs } from '../../sse/event-log.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { recordAudit } from '../audit/record.ts'
import { requireRoom } from '../limits/room.ts'
import { dropAgentSecrets } from '../secrets/store.ts'
import type { Signals } from '../signals.ts'

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
  requirePermission(actor, 'agents:read')
  return sql<Agent[]>`
    select ${columns(sql)} from agents
    where organization_id = ${actor.organizationId} and id > ${after ?? ''} order by id limit ${limit}`
}

/** @throws AppError 'not_found' */
export async function getAgent(sql: Sql, { actor, agentId }: { actor: Actor; agentId: string }): Promise<Agent> {
  requirePermission(actor, 'agents:read')
  const [row] = await sql<Agent[]>`
    select ${columns(sql)} from agents where organization_id = ${actor.organizationId} and id = ${agentId}`
  if (!row) throw new AppError('not_found', 'No such agent')
  return row
}

/**
 * Makes an agent. The same call again is answered with the agent that is there.
 * @throws AppError 'conflict' when the id belongs to an agent with other fields, 'limit_reached'
 */
export async function createAgent(
  sql: Sql,
  { actor, agentId, fields }: { actor: Actor; agentId: string; fields: AgentFields },
): Promise<{ agent: Agent; created: boolean }> {
  requirePermission(actor, 'agents:write')
  const made = await inTransaction(sql, async (tx) => {
    const [there] = await tx`
      select 1 from agents where organization_id = ${actor.organizationId} and id = ${agentId}`
    if (there) return undefined
    await requireRoom(tx, { organizationId: actor.organizationId, of: 'agents' })
    const [row] = await tx<Agent[]>`
      insert into agents (organization_id, id, name, description, model, instructions)
      values (${actor.organizationId}, ${agentId}, ${fields.name}, ${fields.description}, ${fields.model},
        ${fields.instructions})
      on conflict (organization_id, id) do nothing returning ${columns(tx)}`
    const details = { name: fields.name, model: fields.model }
    if (row) await recordAudit(tx, actor, { action: 'agent.created', targetKind: 'agent', targetId: agentId, details })
    return row
  })
  if (made) return { agent: made, created: true }
  const agent = await getAgent(sql, { actor, agentId })
  const same = (Object.keys(fields) as (keyof AgentFields)[]).every((key) => agent[key] === fields[key])
  if (!same) throw new AppError('conflict', 'An agent with this id exists and differs; change it with PATCH')
  return { agent, created: false }
}

/** Changes the given fields and leaves the others, also to a change that comes at the same time. @throws AppError 'not_found' */
export async function updateAgent(
  sql: Sql,
  { actor, agentId, fields }: { actor: Actor; agentId: string; fields: Partial<AgentFields> },
): Promise<Agent> {
  requirePermission(actor, 'agents:write')
  return inTransaction(sql, async (tx) => {
    const [row] = await tx<Agent[]>`
      update agents set name = coalesce(${fields.name ?? null}, name),
        description = coalesce(${fields.description ?? null}, description),
        model = case when ${fields.model !== undefined} then ${fields.model ?? null} else model end,
        instructions = coalesce(${fields.instructions ?? null}, instructions), updated_at = now()
      where organization_id = ${actor.organizationId} and id = ${agentId} returning ${columns(tx)}`
    if (!row) throw new AppError('not_found', 'No such agent')
    const details = { fields: Object.keys(fields), ...(fields.model === undefined ? {} : { model: fields.model }) }
    await recordAudit(tx, actor, { action: 'agent.updated', targetKind: 'agent', targetId: agentId, details })
    return row
  })
}

/**
 * Removes an agent with its conversations, whose streams close, and its secrets. The organization's default agent stays, and so does one
 * that is answering: conversations are locked before they are looked at, so a message is either seen here or refused.
 * @throws AppError 'not_found', 'conflict'
 */
export async function deleteAgent(
  deps: { sql: Sql; signals: Signals },
  { actor, agentId }: { actor: Actor; agentId: string },
): Promise<void> {
  requirePermission(actor, 'agents:write')
  const { organizationId } = actor
  const watched = await inTransaction(deps.sql, async (tx) => {
    const [agent] = await tx<{ isDefault: boolean }[]>`
      select is_default as "isDefault" from agents where organization_id = ${organizationId} and id = ${agentId} for update`
    if (!agent) throw new AppError('not_found', 'No such agent')
    if (agent.isDefault) throw new AppError('conflict', 'The default agent cannot be removed')
    const [open] = await tx<{ runs: number }[]>`
      select coalesce(sum(open_runs), 0)::int as runs from (
        select open_runs from conversations
        where organization_id = ${organizationId} and agent_id = ${agentId} order by id for update) c`
    if (open!.runs > 0) throw new AppError('conflict', 'The agent is answering; cancel its runs first')
    const streams = await tx<{ conversationId: string }[]>`
      select distinct p.conversation_id as "conversationId" from stream_presence p
      join conversations c on c.organization_id = p.organization_id and c.id = p.conversation_id
      where c.organization_id = ${organizationId} and c.agent_id = ${agentId}`
    await removeLogs(tx, { organizationId, agentId })
    await dropAgentSecrets(tx, { organizationId, agentId })
    await tx`delete from agents where organization_id = ${organizationId} and id = ${agentId}`
    await recordAudit(tx, actor, { action: 'agent.removed', targetKind: 'agent', targetId: agentId })
    return streams
  })
  for (const { conversationId } of watched) deps.signals.conversationEnded({ organizationId, conversationId })
}

function columns(sql: Sql) {
  return sql`id as "agentId", name, description, model, instructions, is_default as "isDefault",
    created_at as "createdAt", updated_at as "updatedAt", last_used_at as "lastUsedAt"`
}
