import type { Sql } from '../../../src/db/client.ts'
import { codeOf } from '../../../src/db/errors.ts'
import { endConversation } from '../../../src/domain/conversations/end.ts'
import { type Accepted, acceptMessage, type OnBusy } from '../../../src/domain/messages/accept.ts'
import { cancelRuns } from '../../../src/domain/runs/cancel.ts'
import { endRun } from '../../../src/domain/runs/end.ts'
import { takeSteerMessages } from '../../../src/domain/runs/steer.ts'
import type { Signals } from '../../../src/domain/signals.ts'
import { errorLine } from '../../../src/lib/errors.ts'
import { sha256 } from '../../../src/lib/ids.ts'
import { type ClaimedRun, claimReadyRuns, recoverLapsedRuns } from '../../../src/queue/runs.ts'
import { insertReplies, publishReplies } from '../../../src/queue/thread-response.ts'
import { raiseWatermark } from '../../../src/queue/watermark.ts'
import { pruneLog } from '../../../src/sse/event-log.ts'
import { deltaLine, recordSignals, replyBatch, USAGE } from '../scene.ts'
import { ConnectionLost } from './connection.ts'
import { type Claim, isHeld, isOpen, type Ledger, type Replica, type Reply } from './ledger.ts'
import { readOn } from './reader.ts'

/** One thing that a replica does: a verb of the product, what it needs to know, and what its answer means. */
export interface Operation {
  readonly name: string
  /** It skips what others hold, so it must never be found waiting for a lock. */
  readonly neverWaits: boolean
  perform(sql: Sql, replica: Replica, ledger: Ledger): Promise<void>
}

type Perform = Operation['perform']

const waits = (name: string, perform: Perform): Operation => ({ name, neverWaits: false, perform })
const skips = (name: string, perform: Perform): Operation => ({ name, neverWaits: true, perform })

/** Accepts the message of this number; whoever gets no answer asks again, as clients do. */
export function post(number: number, onBusy: OnBusy = 'enqueue', { claimHere = false } = {}): Operation {
  return waits(`post ${number}${onBusy === 'enqueue' ? '' : ` (${onBusy})`}`, async (sql, replica, ledger) => {
    const signals = recordSignals()
    const args = { ...ledger, number, onBusy, claimHere, signals }
    const answer = await untilAnswered(() => accept(sql, replica, args).catch(tolerateUnknown(ledger)))
    ledger.hints.push(...signals.publishedEvents)
    if (!answer) return
    const known = ledger.accepted.get(answer.messageId)
    if (known !== undefined && known !== answer.runId) ledger.faults.push('one message has two runs')
    ledger.accepted.set(answer.messageId, answer.runId)
    if (answer.claimed) replica.claim = holdRun(answer.claimed)
  })
}

function accept(
  sql: Sql,
  { name }: Replica,
  args: {
    organizationId: string
    conversationId: string
    number: number
    onBusy?: OnBusy
    claimHere: boolean
    signals?: Signals
  },
): Promise<Accepted> {
  const { organizationId, conversationId, number, onBusy = 'enqueue', claimHere, signals = recordSignals() } = args
  const messageId = `message-${number}`
  const text = `question ${number}`
  const content = { role: 'user', content: text }
  return acceptMessage(
    { sql, signals },
    {
      ...{ organizationId, conversationId, messageId, content, text, bodyHash: sha256(text) },
      ...{ fileIds: [], onBusy, webhookUrl: null, traceparent: null },
    },
    {
      ...{ replica: name, leaseMs: LIVING_MS, depthMax: 100, organizationMax: 100 },
      ...{ workerIdleMs: 0, preferredMs: 0, claimHere, workerHere: false },
    },
  )
}

/** A conversation that has ended is unknown; that it had is looked at in the end. */
function tolerateUnknown(ledger: Ledger): (error: unknown) => null {
  return (error) => {
    if (codeOf(error) !== 'not_found') throw error
    ledger.wasUnknown = true
    return null
  }
}

/** Longer than any schedule takes; and a lease that lapses as it is given. Time itself plays no part. */
const LIVING_MS = 3_600_000
const LAPSED_MS = -1_000

function holdRun(run: ClaimedRun): Claim {
  return { ...run, batch: 0, sent: null, text: '' }
}

function claimAs(name: string, leaseMs: number): Operation {
  return skips(name, async (sql, replica) => {
    const [run] = await claimReadyRuns(sql, {
      ...{ replica: replica.name, limit: 1, leaseMs, organizationMax: 100, afterOrganization: '' },
    })
    if (run) replica.claim = holdRun(run)
  })
}

export const claim = claimAs('claim', LIVING_MS)
/** Its holder is taken for dead from now on: a sweep may give the run to another, while this one still goes on. */
export const claimAndFreeze = claimAs('claim and freeze', LAPSED_MS)

/** Streams a batch of so many events. One that got no answer is sent again as it is. */
export function say(count: number): Operation {
  return waits(`say ${count}`, async (sql, replica, ledger) => {
    const { claim } = replica
    if (!claim) return
    claim.sent ??= makeReplies(claim, replica.name, count)
    const replies = claim.sent
    const batch = claim.batch + 1
    ledger.replies.push(...replies.filter((reply) => !ledger.replies.includes(reply)))
    const lines = replies.map((reply) => deltaLine(claim, reply.label))
    const stored = await untilAnswered(() => insertReplies(sql, [replyBatch(claim, batch, lines)]))
    claim.sent = null
    if (!stored.has(claim.id)) return
    if (!isHeld(ledger, claim)) ledger.faults.push('a reply was stored although its claim had lost the run')
    claim.batch = batch
    claim.text += replies.map((reply) => reply.label).join('')
    for (const reply of replies) reply.taken = true
  })
}

function makeReplies(claim: Claim, by: string, count: number): Reply[] {
  const batch = claim.batch + 1
  return Array.from({ length: count }, (_, index) => ({
    label: `<${claim.turn}.${claim.fence}.${batch}.${index} by ${by}>`,
    runId: claim.id,
    place: [claim.fence, batch, index],
    taken: false,
  }))
}

/** Ends the run as its worker does: with all that it has said, when the run began with it. */
export const end = waits('end', async (sql, replica, ledger) => {
  const { claim } = replica
  if (!claim) return
  const signals = recordSignals()
  const text = claim.attempt === 1 ? claim.text : undefined
  const { ended } = await untilAnswered(() =>
    endRun({ sql, signals }, { ...claim, status: 'completed', usage: USAGE, batch: claim.batch, text }),
  )
  ledger.hints.push(...signals.publishedEvents)
  if (ended.length > 0 && !isHeld(ledger, claim)) ledger.faults.push('a claim that had lost the run ended it')
})

/** Takes what waits under `steer` into the run. */
export const steer = waits('steer', async (sql, { claim }, ledger) => {
  if (!claim) return
  const taken = await takeSteerMessages(sql, claim)
  if (taken.length > 0 && !isHeld(ledger, claim)) ledger.faults.push('a claim that had lost the run took messages in')
})

/** One pass of a replica's publisher, which knows how far the queue is empty. */
export const publish = skips('publish', async (sql, replica, ledger) => {
  const pass = await publishReplies(sql, { rowsMax: 500, afterId: replica.watermark.afterId })
  replica.watermark = raiseWatermark(replica.watermark, pass)
  ledger.hints.push(...pass.published.filter((events) => events.conversationId === ledger.conversationId))
})

const NEXT_DOOR = 'conversation-2'

/** Another conversation gets a run, held by this replica: for what shares a queue with ours, and nothing else. */
export const moveInNextDoor = waits('move in next door', async (sql, replica, ledger) => {
  const { organizationId } = ledger
  await sql`
    insert into conversations (organization_id, id, agent_id, user_id, thread)
    select organization_id, ${NEXT_DOOR}, agent_id, user_id, ${NEXT_DOOR} from conversations
    where organization_id = ${organizationId} and id = ${ledger.conversationId}`
  const { claimed } = await accept(sql, replica, {
    ...{ organizationId, conversationId: NEXT_DOOR },
    number: 1,
    claimHere: true,
  })
  replica.nextDoor = claimed && holdRun(claimed)
})

export const sayNextDoor = waits('say next door', async (sql, { nextDoor }) => {
  if (!nextDoor) return
  const lines = [deltaLine(nextDoor, 'nothing')]
  await untilAnswered(() => insertReplies(sql, [replyBatch(nextDoor, nextDoor.batch + 1, lines)]))
  nextDoor.batch++
})

export const sweep = skips('sweep', async (sql) => void (await recoverLapsedRuns(sql, { attemptsMax: 100 })))

/** A sweep that finds no try left, as `domain/runs/sweep.ts` ends such runs. */
export const giveUp = waits('give up', async (sql, _, ledger) => {
  const signals = recordSignals()
  const { exhausted } = await recoverLapsedRuns(sql, { attemptsMax: 0 })
  const { conversationId } = ledger
  for (const run of exhausted)
    await endRun({ sql, signals }, { ...run, conversationId, status: 'failed', deadLetter: true })
  ledger.hints.push(...signals.publishedEvents)
})

/** Cancels the message of this number, or all of the conversation's. */
export function cancel(number?: number): Operation {
  return waits(`cancel ${number ?? 'all'}`, async (sql, _, ledger) => {
    const { organizationId, conversationId } = ledger
    const messageId = number === undefined ? undefined : `message-${number}`
    const named = ledger.now.runs.filter((run) => isOpen(run) && run.messageId === (messageId ?? run.messageId))
    const signals = recordSignals()
    await cancelRuns({ sql, signals }, { organizationId, conversationId, messageId }).catch(tolerateMissing(messageId))
    ledger.hints.push(...signals.publishedEvents)
    for (const run of named) ledger.mustBeOver.add(run.id)
  })
}

/** A message that nobody has posted yet cannot be cancelled. */
function tolerateMissing(messageId: string | undefined): (error: unknown) => void {
  return (error) => {
    if (messageId === undefined || codeOf(error) !== 'not_found') throw error
  }
}

export const leave = waits('end conversation', async (sql, _, ledger) => {
  const { actor, conversationId } = ledger
  const signals = recordSignals()
  await endConversation({ sql, signals }, { actor, conversationId }).catch(tolerateUnknown(ledger))
  ledger.hints.push(...signals.publishedEvents)
})

/** Whatever has ended is old enough. */
export const prune = skips('prune', async (sql) => void (await pruneLog(sql, { keepMs: -LIVING_MS, turnsMax: 10 })))

/** Connects where it was cut off, reads what there is, and is cut off again after so many events. */
export function read(most = Number.POSITIVE_INFINITY): Operation {
  return waits(most === Number.POSITIVE_INFINITY ? 'read' : `read ${most}`, (sql, replica, ledger) =>
    readOn(sql, { replica, ledger, most }),
  )
}

/** Does the operation and notes what it found. A connection that was lost, or a wait that was ended, is nobody's fault. */
export async function perform(
  operation: Operation,
  args: { sql: Sql; replica: Replica; ledger: Ledger },
): Promise<void> {
  try {
    await operation.perform(args.sql, args.replica, args.ledger)
  } catch (error) {
    if (error instanceof ConnectionLost || codeOf(error) === QUERY_CANCELED) return
    args.ledger.faults.push(`${operation.name} failed: ${errorLine(error)}`)
  }
}

/** https://www.postgresql.org/docs/current/errcodes-appendix.html */
const QUERY_CANCELED = '57014'

/** Repeats what got no answer; the schedule decides how often that happens, and does not do it for ever. */
async function untilAnswered<T>(attempt: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await attempt()
    } catch (error) {
      if (!(error instanceof ConnectionLost)) throw error
    }
  }
}
