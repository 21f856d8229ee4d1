import type { Sql } from '../../db/client.ts'
import type { RunUsage } from '../../db/tables.ts'
import { parseEventLines } from '../../sse/frames.ts'

/**
 * Everything that was streamed as the answer to a message so far: what lies in the log after `afterSeq`, then what
 * still waits on the queue. One statement, because a publisher may move replies from the one to the other at any
 * moment: only a single snapshot has each of them exactly once. Called where nothing can be added meanwhile: under the
 * conversation's lock, or by the run's new holder.
 */
export async function readStreamedText(
  sql: Sql,
  args: { organizationId: string; conversationId: string; afterSeq: number; messageId: string },
): Promise<string> {
  const rows = await sql<{ events: string }[]>`
    select events from (
      select 1 as part, last_seq as place, events from event_log
      where organization_id = ${args.organizationId} and conversation_id = ${args.conversationId}
        and last_seq > ${args.afterSeq}
      union all
      select 2, id, events from thread_response
      where organization_id = ${args.organizationId} and conversation_id = ${args.conversationId}
    ) x order by part, place`
  return rows.map((row) => deltasOf(row.events, args.messageId)).join('')
}

function deltasOf(lines: string, messageId: string): string {
  return parseEventLines(lines, 0)
    .filter((event) => event.name === 'output')
    .map((event) => JSON.parse(event.data) as { content: string; messageId: string })
    .filter((data) => data.messageId === messageId)
    .map((data) => data.content)
    .join('')
}

/** Texts of the steps that a run has saved, in order. Served by `messages_order_idx`, as is the next. */
export async function readSavedTexts(
  sql: Sql,
  run: { organizationId: string; conversationId: string; id: string; turn: number },
): Promise<string[]> {
  const rows = await sql<{ text: string }[]>`
    select text from messages
    where organization_id = ${run.organizationId} and conversation_id = ${run.conversationId}
      and turn = ${run.turn} and run_id = ${run.id} and role = 'assistant'
    order by position`
  return rows.map((row) => row.text)
}

/** What the steps that a run has saved cost together. */
export async function readSavedUsage(
  sql: Sql,
  run: { organizationId: string; conversationId: string; id: string; turn: number },
): Promise<RunUsage> {
  const [row] = await sql<RunUsage[]>`
    select coalesce(sum((usage->>'inputTokens')::bigint), 0)::bigint as "inputTokens",
      coalesce(sum((usage->>'outputTokens')::bigint), 0)::bigint as "outputTokens",
      coalesce(sum((usage->>'cachedInputTokens')::bigint), 0)::bigint as "cachedInputTokens"
    from messages where organization_id = ${run.organizationId} and conversation_id = ${run.conversationId}
      and turn = ${run.turn} and run_id = ${run.id} and usage is not null`
  return row!
}
