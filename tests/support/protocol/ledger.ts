import type { Sql } from '../../../src/db/client.ts'
import type { Actor } from '../../../src/domain/accounts/actor.ts'
import type { ClaimedRun } from '../../../src/queue/runs.ts'
import type { PublishedEvents } from '../../../src/queue/thread-response.ts'
import { START, type Watermark } from '../../../src/queue/watermark.ts'
import { parseEventLines } from '../../../src/sse/frames.ts'

/** A run as its row stands after a commit. */
export interface SeenRun {
  id: string
  messageId: string
  turn: number
  state: string
  attempt: number
  replica: string | null
  fence: number
  leaseHolds: boolean
  result: string | null
}

/** What is committed, read after each commit. */
export interface Seen {
  lastSeq: number
  prunedSeq: number
  openRuns: number
  ended: boolean
  runs: SeenRun[]
}

/** A piece of text that somebody tried to stream, under a label that nothing else has. */
export interface Reply {
  label: string
  runId: string
  /** Its place among those of the run: fence, batch, number in the batch. */
  place: [number, number, number]
  taken: boolean
}

export interface Claim extends ClaimedRun {
  /** The last that was stored, as far as its holder knows. */
  batch: number
  /** The batch behind it, while nobody knows whether it is stored. */
  sent: Reply[] | null
  text: string
}

/** A client that reads events, keeps the number of the last, and comes back with it. */
export interface Reader {
  position: number
  /** The head of the open stream; null between two connections. */
  head: number | null
  got: { seq: number; line: string }[]
  /** Where it was told to start over. */
  resets: number[]
}

/** One gateway process, as far as the protocol knows it. */
export interface Replica {
  readonly name: string
  claim: Claim | null
  /** A run of another conversation. */
  nextDoor: Claim | null
  readonly reader: Reader
  watermark: Watermark
}

/**
 * All that is known of one conversation in one schedule: what the verbs answered, what was committed, and what was wrong.
 * Nobody looks into it to find out what to do next.
 */
export interface Ledger {
  readonly organizationId: string
  readonly conversationId: string
  readonly actor: Actor
  readonly faults: string[]
  /** As of the last commit; a verb that answers looks at what was before its own. */
  now: Seen
  /** Each event that was ever in the log, by its number. */
  readonly events: Map<number, string>
  /** Of messages whose acceptance was acknowledged, the run. */
  readonly accepted: Map<string, string>
  readonly replies: Reply[]
  /** What publishers told their replicas. */
  readonly hints: PublishedEvents[]
  /** Runs that an acknowledged cancel has ended: checked after its commit. */
  readonly mustBeOver: Set<string>
  /** Nobody else does anything, and what is committed is not read after each commit. */
  alone: boolean
  /** Somebody was told that there is no such conversation. */
  wasUnknown: boolean
}

export function createReplicaState(name: string): Replica {
  return {
    name,
    claim: null,
    nextDoor: null,
    reader: { position: 0, head: null, got: [], resets: [] },
    watermark: START,
  }
}

const OPEN = ['queued', 'ready', 'delayed', 'running', 'absorbed']
const ACTIVE = ['ready', 'delayed', 'running']

export const isOpen = (run: SeenRun) => OPEN.includes(run.state)

/** Whether a claim counts, by what was committed last. */
export function isHeld(ledger: Ledger, claim: Claim): boolean {
  if (ledger.alone) return true
  const run = ledger.now.runs.find((one) => one.id === claim.id)
  return run?.state === 'running' && run.attempt === claim.attempt
}

/** Reads what is committed and compares it with what was before: numbers, and the states of runs. */
export async function observe(sql: Sql, ledger: Ledger): Promise<void> {
  const { organizationId, conversationId } = ledger
  const [row] = await sql<(Seen & { log: [number, number, string][] })[]>`
    select c.last_seq as "lastSeq", c.pruned_seq as "prunedSeq", c.open_runs as "openRuns", c.status = 'ended' as ended,
      (select coalesce(json_agg(json_build_array(l.first_seq, l.last_seq, l.events) order by l.last_seq), '[]')
        from event_log l where l.organization_id = c.organization_id and l.conversation_id = c.id) as log,
      (select coalesce(json_agg(json_build_object('id', r.id, 'messageId', r.message_id, 'turn', r.turn, 'state', r.state,
          'attempt', r.attempt, 'replica', r.replica, 'fence', r.fence, 'leaseHolds', coalesce(r.lease_until > now(), false),
          'result', r.result_text) order by r.turn), '[]')
        from runs r where r.organization_id = c.organization_id and r.conversation_id = c.id) as runs
    from conversations c where c.organization_id = ${organizationId} and c.id = ${conversationId}`
  const { log, ...seen } = row!
  ledger.faults.push(...compareLog(ledger, seen, log), ...compareRuns(ledger, seen))
  ledger.now = seen
}

/** Numbers are given once, without a gap, and never behind somebody who has read further already. */
function compareLog({ events, now }: Ledger, seen: Seen, log: [number, number, string][]): string[] {
  const faults: string[] = []
  const present = new Set<number>()
  const before = now.lastSeq
  for (const [firstSeq, lastSeq, lines] of log) {
    const parsed = parseEventLines(lines, firstSeq)
    if (parsed.at(-1)!.seq !== lastSeq) faults.push(`a row of the log has not as many events as numbers`)
    for (const { seq, name, data } of parsed) {
      const line = `${name} ${data}`
      const known = events.get(seq)
      if (present.has(seq) || (known ?? line) !== line) faults.push(`the number ${seq} was given twice`)
      else if (known === undefined && seq <= before) {
        faults.push(`a reader misses event ${seq}: it appeared when ${before} had been read`)
      }
      present.add(seq)
      if (known === undefined) events.set(seq, line)
    }
  }
  for (let seq = seen.prunedSeq + 1; seq <= seen.lastSeq; seq++) {
    if (!present.has(seq)) faults.push(`a reader misses event ${seq}: it is not in the log`)
  }
  if (Math.max(0, ...present) > seen.lastSeq) faults.push(`numbers above ${seen.lastSeq} were given, which is the last`)
  return faults
}

/** Terminal states stay, one run of a conversation is in work, and a lease that holds is respected. */
function compareRuns({ now, mustBeOver }: Ledger, seen: Seen): string[] {
  const faults: string[] = []
  for (const run of seen.runs) {
    const was = now.runs.find((one) => one.id === run.id)
    if (was && !isOpen(was) && (was.state !== run.state || was.result !== run.result)) {
      faults.push(`a run that was ${was.state} is ${run.state}, or has another result`)
    }
    const taken = isOpen(run) && (run.state !== 'running' || run.attempt !== was?.attempt)
    if (was?.state === 'running' && was.leaseHolds && taken) faults.push('a run was taken from its living holder')
    if (mustBeOver.has(run.id) && isOpen(run)) faults.push('a run goes on although its cancel was acknowledged')
  }
  const active = seen.runs.filter((run) => ACTIVE.includes(run.state)).length
  if (active > 1) faults.push(`${active} runs of the conversation are in work at once`)
  const open = seen.runs.filter(isOpen).length
  if (open !== seen.openRuns) faults.push(`${open} runs are unfinished, and the conversation counts ${seen.openRuns}`)
  if (open > 0 && active === 0) faults.push('a run waits, and nothing will ever start it')
  return faults
}
