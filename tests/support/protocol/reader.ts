import type { Sql } from '../../../src/db/client.ts'
import { codeOf } from '../../../src/db/errors.ts'
import { followConversation } from '../../../src/domain/conversations/follow.ts'
import { readHeads, readLogs } from '../../../src/sse/event-log.ts'
import { parseEventLines } from '../../../src/sse/frames.ts'
import type { Ledger, Replica } from './ledger.ts'

/**
 * A client and the stream that serves it, as `sse/manager.ts` does: it connects with the number of the last event it has,
 * is given what the log has behind it, and comes back when that is not the next one, or is gone.
 */
export async function readOn(
  sql: Sql,
  { replica, ledger, most }: { replica: Replica; ledger: Ledger; most: number },
): Promise<void> {
  const { reader } = replica
  if (reader.head === null) {
    if (!(await connect(sql, replica, ledger))) return
  } else {
    // As the tail does, which also asks when no doorbell has rung.
    const [row] = await readHeads(sql, [ledger])
    reader.head = row?.lastSeq ?? reader.head
  }
  const rows = await readLogs(sql, [{ ...ledger, after: reader.position }])
  if (rows.length === 0 && reader.position < reader.head!) reader.head = null
  let left = most
  for (const row of rows) {
    if (row.lastSeq <= reader.position)
      ledger.faults.push(`a reader at ${reader.position} was given ${row.lastSeq} again`)
    if (row.firstSeq > reader.position + 1) {
      reader.head = null
      return
    }
    for (const { seq, name, data } of parseEventLines(row.events, row.firstSeq)) {
      if (seq <= reader.position) continue
      if (left-- === 0) {
        reader.head = null
        return
      }
      reader.got.push({ seq, line: `${name} ${data}` })
      reader.position = seq
    }
  }
}

/** Returns false when there is nothing to follow. */
async function connect(sql: Sql, { name, reader }: Replica, ledger: Ledger): Promise<boolean> {
  const { actor, conversationId } = ledger
  const lastEventId = String(reader.position)
  const asked = { actor, conversationId, lastEventId, replica: name }
  const following = await followConversation(sql, asked).catch((error: unknown) => {
    if (codeOf(error) !== 'not_found') throw error
    ledger.wasUnknown = true
    return null
  })
  if (!following) return false
  const { after, head, preamble } = following
  if (preamble.includes('event: reset\n')) {
    if (reader.position >= ledger.now.prunedSeq) ledger.faults.push('a reader was told to start over without need')
    reader.resets.push(after)
  } else if (after !== reader.position) ledger.faults.push(`a reader at ${reader.position} was moved to ${after}`)
  reader.position = after
  reader.head = head
  return true
}
