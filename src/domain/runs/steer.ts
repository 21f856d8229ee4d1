import type { ModelMessage } from 'ai'
import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import { type ClaimedRun, holdRun } from '../../queue/runs.ts'
import { attachFiles } from '../files/attach.ts'
import { readMessageContents } from '../messages/history.ts'

/**
 * Takes the waiting `steer` messages of the conversation into the turn that is running: their runs end with this one,
 * and the transcript has them where the model read them. Returns them in order; nothing when this claim no longer counts.
 */
export async function takeSteerMessages(sql: Sql, run: ClaimedRun): Promise<ModelMessage[]> {
  const waiting = await sql`
    select 1 from runs where organization_id = ${run.organizationId} and conversation_id = ${run.conversationId}
      and state = 'queued' and steer limit 1`
  if (waiting.length === 0) return []
  return inTransaction(sql, async (tx) => {
    await tx`
      select 1 from conversations where organization_id = ${run.organizationId} and id = ${run.conversationId}
      for no key update`
    if (!(await holdRun(tx, run))) return []
    const taken = await tx<{ messageId: string; turn: number }[]>`
      update runs set state = 'absorbed', absorbed_by = ${run.id}
      where organization_id = ${run.organizationId} and conversation_id = ${run.conversationId}
        and state = 'queued' and steer
      returning message_id as "messageId", turn`
    const ids = taken.sort((a, b) => a.turn - b.turn).map((row) => row.messageId)
    await tx`
      update messages m set turn = ${run.turn}, position = p.last + x.place
      from unnest(${ids}::text[]) with ordinality as x (id, place), (
        select max(position) as last from messages
        where organization_id = ${run.organizationId} and conversation_id = ${run.conversationId} and turn = ${run.turn}
      ) p
      where m.organization_id = ${run.organizationId} and m.conversation_id = ${run.conversationId} and m.id = x.id`
    return attachFiles(tx, { ...run, messages: await readMessageContents(tx, { ...run, ids }) })
  })
}
