import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import { isUuid } from '../../lib/ids.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'

/** Work that was given up: a run after its last attempt, or a call that nobody took. */
export interface DeadLetter {
  id: string
  /** `runs`, or the kind of call, such as `webhook`. */
  queue: string
  error: string
  attempts: number
  createdAt: Date
  conversationId: string | null
  messageId: string | null
  /** Of a call: where it went. */
  target: string | null
}

export interface DeadLetterFilter {
  queue?: string | undefined
  conversationId?: string | undefined
}

/**
 * A page of an organization's dead letters, in the order of their ids; of one queue or one conversation where that is asked
 * for. Served by the primary key.
 * @throws AppError 'forbidden', 'invalid_request' for a cursor that no page gave
 */
export async function listDeadLetters(
  sql: Sql,
  { actor, limit, cursor, ...filter }: { actor: Actor; limit: number; cursor?: string | undefined } & DeadLetterFilter,
): Promise<{ deadLetters: DeadLetter[]; nextCursor: string | null }> {
  requirePermission(actor, 'organization:write')
  if (cursor !== undefined && !isUuid(cursor)) throw new AppError('invalid_request', 'cursor: is not one of a page')
  const { queue, conversationId } = filter
  const conversation = sql`coalesce(payload->>'conversationId', payload->'payload'->>'conversationId')`
  const only = [
    cursor === undefined ? sql`` : sql`and id > ${cursor}`,
    queue === undefined ? sql`` : sql`and queue = ${queue}`,
    conversationId === undefined ? sql`` : sql`and ${conversation} = ${conversationId}`,
  ]
  const rows = await sql<DeadLetter[]>`
    select id, queue, error, attempts, created_at as "createdAt", ${conversation} as "conversationId",
      coalesce(payload->>'messageId', payload->'payload'->>'messageId') as "messageId", payload->>'target' as target
    from dead_letters
    where organization_id = ${actor.organizationId} ${only[0]!} ${only[1]!} ${only[2]!}
    order by id limit ${limit + 1}`
  const deadLetters = rows.slice(0, limit)
  return { deadLetters, nextCursor: rows.length > limit ? deadLetters.at(-1)!.id : null }
}
