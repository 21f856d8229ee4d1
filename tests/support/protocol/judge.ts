import { parseEventLines } from '../../../src/sse/frames.ts'
import type { Ledger, Replica, Reply } from './ledger.ts'

interface Told {
  seq: number
  name: string
  messageId: string
  /** Of `output`, and the final text of `complete`. */
  text: string
}

/** What was wrong with the whole of a schedule, once everything has come to its end. */
export function judge(ledger: Ledger, replicas: Replica[]): string[] {
  const told = [...ledger.events].sort(([a], [b]) => a - b).map(([seq, line]) => toldBy(seq, line))
  const unknown = ledger.wasUnknown && !ledger.now.ended
  return [
    ...(unknown ? ['a conversation that lives was unknown'] : []),
    ...judgeMessages(ledger, told),
    ...judgeReplies(ledger.replies, told),
    ...judgeHints(ledger),
    ...replicas.flatMap((replica) => judgeReader(replica, ledger, told)),
  ]
}

function toldBy(seq: number, line: string): Told {
  const space = line.indexOf(' ')
  const data = JSON.parse(line.slice(space + 1)) as { messageId: string; content?: string; finalText?: string }
  return { seq, name: line.slice(0, space), messageId: data.messageId, text: data.content ?? data.finalText ?? '' }
}

/** Each message that was taken ends once, with all that was streamed for it, and nothing of it comes behind. */
function judgeMessages({ accepted, now }: Ledger, told: Told[]): string[] {
  const faults: string[] = []
  for (const [messageId, runId] of accepted) {
    if (!now.runs.some((run) => run.id === runId && run.messageId === messageId)) {
      faults.push('a message that was acknowledged is lost')
    }
  }
  for (const { messageId } of now.runs) {
    const own = told.filter((event) => event.messageId === messageId)
    const ends = own.filter((event) => event.name === 'complete')
    if (ends.length !== 1) faults.push(`a message ended ${ends.length} times`)
    else if (own.at(-1) !== ends[0]) faults.push('something was said behind the end')
    const streamed = own.flatMap((event) => (event.name === 'output' ? event.text : [])).join('')
    // A message that was taken into another's turn ends with the text of that.
    if (ends[0] && streamed !== '' && ends[0].text !== streamed) faults.push('the final text is not what was streamed')
  }
  return faults
}

/** What was stored is in the log once, what was refused is not, and the replies of a run stand in their order. */
function judgeReplies(replies: Reply[], told: Told[]): string[] {
  const faults: string[] = []
  const outputs = told.filter((event) => event.name === 'output')
  const known = new Map(replies.map((reply) => [reply.label, reply]))
  for (const { label, taken } of replies) {
    const count = outputs.filter((event) => event.text === label).length
    if (count > 1 || (taken && count === 0)) faults.push(`a reply is in the log ${count} times`)
  }
  const order = outputs.flatMap((event) => known.get(event.text) ?? [])
  if (order.length !== outputs.length) faults.push('something is in the log that nobody said')
  const last = new Map<string, Reply>()
  for (const reply of order) {
    const before = last.get(reply.runId)
    if (before && comparePlaces(before.place, reply.place) >= 0) faults.push('the replies of a run are out of order')
    if (!before && last.size > 0 && order.slice(order.indexOf(reply)).some((one) => last.has(one.runId))) {
      faults.push('the answers of two messages are mixed')
    }
    last.set(reply.runId, reply)
  }
  return faults
}

function comparePlaces(a: Reply['place'], b: Reply['place']): number {
  const at = a.findIndex((number, index) => number !== b[index])
  return at === -1 ? 0 : a[at]! - b[at]!
}

/** What a publisher told its replica is what is in the log. */
function judgeHints({ hints, events }: Ledger): string[] {
  return hints.flatMap(({ events: lines, firstSeq }) =>
    parseEventLines(lines, firstSeq).flatMap(({ seq, name, data }) =>
      events.get(seq) === `${name} ${data}` ? [] : [`replicas were told another event ${seq} than the log has`],
    ),
  )
}

/** A reader has had every event once, or was told to start over behind the last end; and in the end it has them all. */
function judgeReader({ name, reader }: Replica, { events, now }: Ledger, told: Told[]): string[] {
  const faults: string[] = []
  let last = 0
  for (const { seq, line } of reader.got) {
    const restarted = reader.resets.some((after) => after > last && after + 1 === seq)
    if (seq !== last + 1 && !restarted) faults.push(`a reader of ${name} was given ${seq} behind ${last}`)
    if (events.get(seq) !== line) faults.push(`a reader of ${name} was given another event ${seq} than the log has`)
    last = seq
  }
  for (const after of reader.resets) {
    const skipped = told.filter((event) => event.seq <= after && event.name === 'output')
    const unfinished = (messageId: string) =>
      told.some((event) => event.seq > after && event.name === 'complete' && event.messageId === messageId)
    if (skipped.some((event) => unfinished(event.messageId))) faults.push('a reset skipped words of an unfinished turn')
  }
  const takesPart = reader.head !== null || reader.position > 0
  if (takesPart && !now.ended && reader.position !== now.lastSeq) {
    faults.push(
      `a reader of ${name} came back again and again at ${reader.position} of ${now.lastSeq}: it misses events`,
    )
  }
  return faults
}
