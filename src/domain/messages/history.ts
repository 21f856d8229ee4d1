import type { ModelMessage } from 'ai'
import type { Sql } from '../../db/client.ts'
import type { RunState, RunUsage } from '../../db/tables.ts'
import { AppError } from '../../lib/errors.ts'
import type { Actor } from '../accounts/actor.ts'
import { getConversation } from '../conversations/get.ts'
import { publicStatus, type RunView } from '../runs/get.ts'

/** Messages given to a model: the newest ones, so that an endless conversation stays affordable. */
const MODEL_MESSAGES_MAX = 400

/** Bytes of text on one page: it ends behind the message that reaches them, which may be as long as a turn's answer. */
export const PAGE_BYTES_MAX = 1_048_576

/** The transcript as a model sees it, up to and with the run's own turn. */
export async function loadHistory(
  sql: Sql,
  run: { organizationId: string; conversationId: string; turn: number },
): Promise<ModelMessage[]> {
  const rows = await sql<{ content: ModelMessage }[]>`
    select content from messages
    where organization_id = ${run.organizationId} and conversation_id = ${run.conversationId} and turn <= ${run.turn}
    order by turn desc, position desc limit ${MODEL_MESSAGES_MAX}`
  const messages = rows.map((row) => row.content).reverse()
  // The cut may fall between a tool call and its result; providers refuse a result without its call.
  const start = messages.findIndex((message) => message.role === 'user')
  return start > 0 ? messages.slice(start) : messages
}

/** Contents of the named messages, in the transcript's order. */
export async function readMessageContents(
  sql: Sql,
  args: { organizationId: string; conversationId: string; ids: string[] },
): Promise<ModelMessage[]> {
  const rows = await sql<{ content: ModelMessage }[]>`
    select content from messages
    where organization_id = ${args.organizationId} and conversation_id = ${args.conversationId}
      and id = any(${args.ids}::text[])
    order by turn, position`
  return rows.map((row) => row.content)
}

export interface HistoryMessage {
  id: string
  type: 'message'
  role: string
  content: string
  model: string | null
  /** Epoch milliseconds. */
  timestamp: number
  usage: RunUsage | null
  /** How the turn that answers it stands or ended; null for what is no question. */
  run: Pick<RunView, 'runId' | 'status' | 'error'> | null
}

export interface HistoryPage {
  messages: HistoryMessage[]
  nextCursor: string | null
  hasMore: boolean
  sessionId: string
}

interface Row extends Omit<HistoryMessage, 'type' | 'timestamp' | 'run'> {
  turn: number
  position: number
  createdAt: Date
  /** Messages found, those included that do not fit. */
  found: number
  runId: string | null
  state: RunState | null
  errorCode: string | null
  errorMessage: string | null
}

/**
 * A page of what was said, oldest first. Messages without visible text (tool traffic) are left out. It ends early where
 * its text reaches `PAGE_BYTES_MAX`.
 *
 * @param args.newest takes the last `limit` messages instead of the first ones.
 * @param args.endedOnly leaves out what unfinished runs have said so far: who follows the stream is told it there.
 * @param args.cursor as a page before gave it; @throws AppError 'invalid_request' for any other.
 */
export async function pageHistory(
  sql: Sql,
  args: {
    actor: Actor
    conversationId: string
    cursor?: string | undefined
    limit: number
    newest?: boolean
    endedOnly?: boolean
  },
): Promise<HistoryPage> {
  await getConversation(sql, args)
  const [turn, position] = parseCursor(args.cursor)
  const order = args.newest ? sql`m.turn desc, m.position desc` : sql`m.turn, m.position`
  // `octet_length` of a long text reads its length alone, and what does not fit is not read at all.
  const page = await sql<Row[]>`
    with found as (
      select m.organization_id, m.id, m.role, m.text, m.model, m.usage, m.turn, m.position, m.created_at, m.run_id,
        sum(octet_length(m.text)) over (order by ${order} rows unbounded preceding) as bytes
      from messages m
      where m.organization_id = ${args.actor.organizationId} and m.conversation_id = ${args.conversationId}
        and (m.turn, m.position) > (${turn}, ${position}) and m.role <> 'tool' and m.text <> ''
        ${args.endedOnly ? sql`and (m.role = 'user' or not ${isOfOpenRun(sql)})` : sql``}
      order by ${order} limit ${args.limit + 1}
    )
    select m.id, m.role, m.text as content, m.model, m.usage, m.turn, m.position, m.created_at as "createdAt",
      (select count(*)::int from found) as found,
      asked.id as "runId", asked.state, asked.error_code as "errorCode", asked.error_message as "errorMessage"
    from found m
    left join runs asked on m.role = 'user' and asked.organization_id = m.organization_id and asked.id = m.run_id
    where m.bytes - octet_length(m.text) < ${PAGE_BYTES_MAX}
    order by ${order} limit ${args.limit}`
  const hasMore = page.length > 0 && page.length < page[0]!.found
  if (args.newest) page.reverse()
  const last = page.at(-1)
  return {
    messages: page.map((row) => {
      const { id, role, content, model, usage, createdAt } = row
      return { id, type: 'message', role, content, model, timestamp: createdAt.getTime(), usage, run: toRun(row) }
    }),
    nextCursor: hasMore && last ? `${last.turn}.${last.position}` : null,
    hasMore,
    sessionId: args.conversationId,
  }
}

/** SQL condition on the message `m`. Served by `runs_open_idx`. */
function isOfOpenRun(sql: Sql) {
  return sql`exists (
    select 1 from runs r
    where r.organization_id = m.organization_id and r.conversation_id = m.conversation_id
      and r.turn = m.turn and r.state in ('queued', 'ready', 'delayed', 'running', 'absorbed'))`
}

function toRun({ runId, state, errorCode, errorMessage }: Row): HistoryMessage['run'] {
  if (runId === null || state === null) return null
  const error = errorCode === null ? null : { code: errorCode, message: errorMessage ?? '' }
  return { runId, status: publicStatus(state), error }
}

function parseCursor(cursor: string | undefined): [number, number] {
  if (cursor === undefined) return [0, -1]
  const match = /^(\d{1,15})\.(\d{1,9})$/.exec(cursor)
  if (!match) throw new AppError('invalid_request', 'cursor: is not one that a page of this history gave')
  return [Number(match[1]), Number(match[2])]
}

export interface HistoryStats {
  messageCount: number
  userMessageCount: number
  assistantMessageCount: number
  usage: RunUsage
  /** Epoch milliseconds. */
  firstMessageAt: number | null
  lastMessageAt: number | null
}

/** Counts and token sums of one conversation. */
export async function historyStats(sql: Sql, args: { actor: Actor; conversationId: string }): Promise<HistoryStats> {
  await getConversation(sql, args)
  const [row] = await sql<
    {
      users: number
      assistants: number
      input: number
      output: number
      cached: number
      first: Date | null
      last: Date | null
    }[]
  >`
    select count(*) filter (where role = 'user')::int as users,
      count(*) filter (where role = 'assistant' and text <> '')::int as assistants,
      coalesce(sum((usage->>'inputTokens')::bigint), 0)::bigint as input,
      coalesce(sum((usage->>'outputTokens')::bigint), 0)::bigint as output,
      coalesce(sum((usage->>'cachedInputTokens')::bigint), 0)::bigint as cached,
      min(created_at) as first, max(created_at) as last
    from messages where organization_id = ${args.actor.organizationId} and conversation_id = ${args.conversationId}`
  return {
    messageCount: row!.users + row!.assistants,
    userMessageCount: row!.users,
    assistantMessageCount: row!.assistants,
    usage: { inputTokens: row!.input, outputTokens: row!.output, cachedInputTokens: row!.cached },
    firstMessageAt: row!.first?.getTime() ?? null,
    lastMessageAt: row!.last?.getTime() ?? null,
  }
}
