import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import type { Actor } from '../accounts/actor.ts'
import { requireConversation } from '../accounts/actor.ts'

export interface Conversation {
  organizationId: string
  id: string
  agentId: string
  userId: string
  thread: string
  lastTurn: number
  openRuns: number
  lastSeq: number
  endSeq: number
  prunedSeq: number
  createdAt: Date
  lastActivityAt: Date
}

/**
 * A conversation of the caller's organization that has not been ended.
 * @throws AppError 'not_found', also for another organization's.
 */
export async function getConversation(
  sql: Sql,
  { actor, conversationId }: { actor: Actor; conversationId: string },
): Promise<Conversation> {
  requireConversation(actor, conversationId)
  const [row] = await sql<Conversation[]>`
    select organization_id as "organizationId", id, agent_id as "agentId", user_id as "userId", thread,
      last_turn as "lastTurn", open_runs as "openRuns", last_seq as "lastSeq", end_seq as "endSeq", pruned_seq as "prunedSeq",
      created_at as "createdAt", last_activity_at as "lastActivityAt"
    from conversations
    where organization_id = ${actor.organizationId} and id = ${conversationId} and status = 'active'`
  if (!row) throw new AppError('not_found', 'No such conversation')
  return row
}
