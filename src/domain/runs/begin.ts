import type { ModelMessage } from 'ai'
import type { Sql } from '../../db/client.ts'
import type { ConversationSettings, RunUsage, StepFinish } from '../../db/tables.ts'
import type { ClaimedRun } from '../../queue/runs.ts'
import { attachFiles } from '../files/attach.ts'
import { loadHistory } from '../messages/history.ts'
import { readLastFinish } from '../usage/record-step.ts'
import { findResumePoint, joinSteps } from './streamed-text.ts'
import { readSavedTexts, readSavedUsage, readStreamedText } from './turn-text.ts'

/** Why a turn fails behind a step that is saved. */
export type StepFailure = Exclude<StepFinish, 'continues' | 'answered'>

/** All that a worker needs to take up a turn, wherever the attempt before it stopped. */
export interface TurnContext {
  agentId: string
  /** `provider/model`, or null for the gateway's default. */
  model: string | null
  instructions: string
  messages: ModelMessage[]
  /** Text that the stream still lacks although its step was saved. */
  missingText: string
  /** Text of the unfinished step that the stream has already. */
  partialText: string
  /** The turn's whole text so far, `missingText` included. */
  text: string
  /** True when steps of this turn with visible text are saved: the next text follows a separator. */
  hasSavedText: boolean
  /** True when the last step of the turn is saved: it lacks nothing but its end, and no model is to be asked again. */
  isAnswered: boolean
  /** Why that step failed the turn although it is saved; null when it did not. */
  failed: StepFailure | null
  /** What the saved steps of earlier attempts cost. */
  usage: RunUsage
}

interface Row {
  agentId: string
  agentModel: string | null
  instructions: string
  settings: ConversationSettings
  endSeq: number
}

/** Reads the context of a claimed run; null when its conversation is gone. */
export async function loadTurn(sql: Sql, run: ClaimedRun): Promise<TurnContext | null> {
  const [[row], history] = await Promise.all([
    sql<Row[]>`
      select a.id as "agentId", a.model as "agentModel", a.instructions, c.settings, c.end_seq as "endSeq"
      from conversations c join agents a on a.organization_id = c.organization_id and a.id = c.agent_id
      where c.organization_id = ${run.organizationId} and c.id = ${run.conversationId}`,
    loadHistory(sql, run),
  ])
  if (!row) return null
  const messages = await attachFiles(sql, { ...run, messages: history })
  const { agentId, instructions } = row
  const base = { agentId, model: row.settings.model ?? row.agentModel, instructions, messages }
  if (run.attempt <= 1 && run.fence <= 1) {
    return {
      ...base,
      missingText: '',
      partialText: '',
      text: '',
      hasSavedText: false,
      isAnswered: false,
      failed: null,
      usage: NO_USAGE,
    }
  }
  const saved = await readSavedTexts(sql, run)
  const streamed = await readStreamedText(sql, { ...run, afterSeq: row.endSeq })
  const finish = await readLastFinish(sql, run)
  const { missing, partial } = findResumePoint(saved, streamed)
  return {
    ...base,
    missingText: missing,
    partialText: partial,
    text: streamed + missing,
    hasSavedText: joinSteps(saved) !== '',
    // A release before this one did not say how its steps ended.
    isAnswered: finish === null ? isAnswer(messages.at(-1)) : finish !== 'continues',
    failed: finish === 'continues' || finish === 'answered' ? null : finish,
    usage: await readSavedUsage(sql, run),
  }
}

/**
 * Whether this, as the last message there is, ends a turn: a step that goes on leaves the results of its tools behind,
 * and a message that was taken in meanwhile is the user's.
 */
function isAnswer(last: ModelMessage | undefined): boolean {
  if (last?.role !== 'assistant') return false
  return (
    typeof last.content === 'string' ||
    !last.content.some((part) => part.type === 'tool-call' && !part.providerExecuted)
  )
}

const NO_USAGE: RunUsage = { inputTokens: 0, outputTokens: 0, cachedInputTokens: 0 }

/** Notes which replica works for the conversation now, so that its next run goes to the same worker. */
export async function noteWorker(sql: Sql, run: ClaimedRun, replica: string): Promise<void> {
  await sql`
    update conversations set worker_replica = ${replica}
    where organization_id = ${run.organizationId} and id = ${run.conversationId}
      and worker_replica is distinct from ${replica}`
}
