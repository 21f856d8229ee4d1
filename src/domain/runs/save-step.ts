import type { ModelMessage } from 'ai'
import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { storable } from '../../lib/text.ts'
import { type ClaimedRun, holdRun } from '../../queue/runs.ts'
import { recordStep, type StepUsage } from '../usage/record-step.ts'

export interface Step extends StepUsage {
  /** Number of the step within this claim of the run. */
  step: number
  messages: ModelMessage[]
}

/**
 * Makes one finished step part of the transcript, and of what its organization has used. After a crash the turn goes on behind the last saved step, on any
 * replica. The same step sent again is saved once. Returns false, and changes nothing, when this claim of the run no longer counts (I5).
 */
export async function saveStep(sql: Sql, run: ClaimedRun, step: Step): Promise<boolean> {
  return inTransaction(sql, async (tx) => {
    if (!(await holdRun(tx, run))) return false
    const rows = step.messages.map((message, index) => ({
      id: `${run.id}.${run.fence}.${step.step}.${index}`,
      offset: index + 1,
      role: message.role,
      content: JSON.stringify(storable(message)),
      text: storable(textOf(message)),
      usage: index === 0 ? JSON.stringify(step.usage) : null,
    }))
    await tx`
      with used as (${recordStep(tx, run, step)})
      insert into messages (organization_id, conversation_id, id, run_id, turn, position, role, content, text, model, usage)
      select ${run.organizationId}, ${run.conversationId}, x.id, ${run.id}, ${run.turn}, p.last + x.place, x.role,
        x.content::jsonb, x.text, ${step.model}, x.usage::jsonb
      from unnest(${rows.map((r) => r.id)}::text[], ${rows.map((r) => r.offset)}::int[], ${rows.map((r) => r.role)}::text[],
        ${rows.map((r) => r.content)}::text[], ${rows.map((r) => r.text)}::text[], ${rows.map((r) => r.usage)}::text[])
        as x (id, place, role, content, text, usage)
      cross join (
        select coalesce(max(position), -1) as last from messages
        where organization_id = ${run.organizationId} and conversation_id = ${run.conversationId} and turn = ${run.turn}
      ) p
      on conflict (organization_id, conversation_id, id) do nothing`
    return true
  })
}

/** The visible text of a message: its text parts, nothing of reasoning, files or tool traffic. */
export function textOf(message: ModelMessage): string {
  if (typeof message.content === 'string') return message.content
  return message.content.map((part) => (part.type === 'text' ? part.text : '')).join('')
}
