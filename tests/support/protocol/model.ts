import type { Sql } from '../../../src/db/client.ts'
import { followConversation } from '../../../src/domain/conversations/follow.ts'
import { cancelRuns } from '../../../src/domain/runs/cancel.ts'
import { endRun } from '../../../src/domain/runs/end.ts'
import { errorLine } from '../../../src/lib/errors.ts'
import { type ClaimedRun, claimReadyRuns, recoverLapsedRuns } from '../../../src/queue/runs.ts'
import { insertReplies, type PublishedEvents, publishReplies } from '../../../src/queue/thread-response.ts'
import { pruneLog, readLogs } from '../../../src/sse/event-log.ts'
import { parseEventLines } from '../../../src/sse/frames.ts'
import { deltaLine, recordSignals, replyBatch, type Scene } from '../scene.ts'

/** What a schedule may begin. `last` takes the newest claim, `first` the oldest, which may be fenced out by then. */
export const OPERATIONS = [
  ...['claim', 'say last', 'say last', 'say first', 'publish', 'publish', 'end last', 'end first'],
  ...['lapse', 'follow', 'tail', 'tail', 'prune', 'cancel'],
] as const
export type Operation = (typeof OPERATIONS)[number]

interface Claim extends ClaimedRun {
  /** The last that was stored, as far as its holder knows. A batch that is sent again, even at once, is the same one. */
  batch: number
}

/**
 * What is known of one conversation from the answers that the verbs gave, and the invariants that these must keep.
 * Nothing in here looks into the tables to find out what should be; it only compares what was said with what came out.
 */
export interface Model {
  /** Does one operation through `sql`; what it says counts once `commit` of the answer is called. */
  perform(operation: Operation, sql: Sql): Promise<() => void>
  /** Lets all that is unfinished end, reads the rest, and returns what was broken, in words. */
  judge(): Promise<string[]>
  /** An operation failed although nothing was done to it. */
  failed(operation: Operation, error: unknown): void
}

export async function createModel(scene: Scene): Promise<Model> {
  const { organizationId, actor } = scene
  const conversationId = await scene.open()
  await scene.sql`
    insert into replicas (id, version, lease_until) values ('replica-1', '1', now() + interval '1 hour') on conflict do nothing`
  const key = { organizationId, conversationId }
  const messages = [(await scene.post(conversationId)).messageId, (await scene.post(conversationId)).messageId]
  const faults: string[] = []
  const claims: Claim[] = []
  const accepted: { label: string; runId: string; fence: number }[] = []
  const newestFence = new Map<string, number>()
  const history = new Map<number, string>()
  const reader = { position: 0 }
  /** Runs that somebody holds whose lease did not lapse. */
  const held = new Set<string>()

  function note(where: string, events: PublishedEvents[]) {
    for (const rows of events.filter((one) => one.conversationId === conversationId)) {
      for (const { seq, name, data } of parseEventLines(rows.events, rows.firstSeq)) {
        const line = `${name} ${data}`
        if ((history.get(seq) ?? line) !== line) faults.push(`number ${seq} was given twice (${where})`)
        history.set(seq, line)
      }
    }
  }

  /** What a stream does with rows behind its position: use what is next, and see a gap as a loss unless it was pruned. */
  async function take(rows: PublishedEvents[], sql: Sql) {
    note('read', rows)
    for (const { firstSeq, lastSeq } of rows) {
      if (firstSeq > reader.position + 1) {
        const [row] = await sql<{ pruned: number }[]>`
          select pruned_seq as pruned from conversations where organization_id = ${organizationId} and id = ${conversationId}`
        if (row!.pruned < firstSeq - 1) faults.push(`a reader at ${reader.position} was given ${firstSeq}`)
      }
      reader.position = Math.max(reader.position, lastSeq)
    }
  }

  const verbs: Record<Operation, (sql: Sql) => Promise<() => void>> = {
    async claim(sql) {
      const args = { replica: 'replica-1', limit: 1, leaseMs: 60_000, organizationMax: 9, afterOrganization: '' }
      const claimed = await claimReadyRuns(sql, args)
      return () => {
        for (const run of claimed.filter((one) => one.organizationId === organizationId)) {
          if (held.has(run.id)) faults.push('a run was claimed from its living holder')
          held.add(run.id)
          claims.push({ ...run, batch: 0 })
          newestFence.set(run.id, Math.max(run.fence, newestFence.get(run.id) ?? 0))
        }
      }
    },
    'say last': (sql) => say(sql, claims.at(-1)),
    'say first': (sql) => say(sql, claims[0]),
    async publish(sql) {
      const { published } = await publishReplies(sql, { rowsMax: 500, afterId: 0 })
      return () => note('publish', published)
    },
    'end last': (sql) => end(sql, claims.at(-1)),
    'end first': (sql) => end(sql, claims[0]),
    async lapse(sql) {
      await sql`
        update runs set lease_until = now() - interval '1 second' where id in (
          select id from runs where organization_id = ${organizationId} and state = 'running' for update skip locked)`
      await recoverLapsedRuns(sql, { attemptsMax: 1_000 })
      return () => held.clear()
    },
    async follow(sql) {
      const asked = { actor, conversationId, lastEventId: String(reader.position), replica: 'replica-1' }
      const { after } = await followConversation(sql, asked)
      const rows = await readLogs(sql, [{ ...key, after }])
      return () => {
        reader.position = Math.max(reader.position, after)
        note('follow', rows)
        const [first] = rows
        if (first && first.firstSeq > after + 1) faults.push(`a stream at ${after} was given ${first.firstSeq}`)
        reader.position = Math.max(reader.position, rows.at(-1)?.lastSeq ?? 0)
      }
    },
    async tail(sql) {
      await take(await readLogs(sql, [{ ...key, after: reader.position }]), sql)
      return () => {}
    },
    async prune(sql) {
      await pruneLog(sql, { keepMs: -1_000, turnsMax: 10 })
      return () => {}
    },
    async cancel(sql) {
      const signals = recordSignals()
      await cancelRuns({ sql, signals }, key)
      return () => note('cancel', signals.publishedEvents)
    },
  }

  async function say(sql: Sql, claim: Claim | undefined) {
    if (!claim) return () => {}
    const batch = claim.batch + 1
    const label = `<${claim.turn}.${claim.fence}.${batch}>`
    const lateAlready = claim.fence < (newestFence.get(claim.id) ?? 0)
    const stored = await insertReplies(sql, [replyBatch(claim, batch, [deltaLine(claim, label)])])
    return () => {
      if (!stored.has(claim.id)) return
      claim.batch = Math.max(claim.batch, batch)
      if (accepted.some((reply) => reply.label === label)) return
      accepted.push({ label, runId: claim.id, fence: claim.fence })
      if (lateAlready) faults.push(`${label} was stored although its claim had lost the run`)
    }
  }

  async function end(sql: Sql, claim: Claim | undefined) {
    if (!claim) return () => {}
    const lateAlready = claim.fence < (newestFence.get(claim.id) ?? 0)
    const signals = recordSignals()
    const { ended } = await endRun({ sql, signals }, { ...claim, status: 'completed' })
    return () => {
      note('end', signals.publishedEvents)
      if (lateAlready && ended.length > 0) faults.push('a claim that had lost the run ended it')
    }
  }

  async function drain() {
    for (let round = 0; round < 8; round++) {
      const perform = async (operation: Operation) => (await verbs[operation](scene.sql))()
      await perform('lapse')
      await perform('claim')
      await perform('publish')
      await perform('end last')
      await perform('tail')
    }
    note('the log', await readLogs(scene.sql, [{ ...key, after: 0 }]))
  }

  return {
    perform: (operation, sql) => verbs[operation](sql),
    failed: (operation, error) => void faults.push(`${operation} failed: ${errorLine(error)}`),
    async judge() {
      await drain().catch((error) => faults.push(`what was left could not be ended: ${errorLine(error)}`))
      const [row] = await scene.sql<{ lastSeq: number; openRuns: number }[]>`
        select last_seq as "lastSeq", open_runs as "openRuns" from conversations where organization_id = ${organizationId} and id = ${conversationId}`
      if (row!.openRuns !== 0) faults.push(`${row!.openRuns} runs never ended`)
      const numbers = [...history.keys()].sort((a, b) => a - b)
      if (numbers.some((seq, index) => seq !== index + 1)) faults.push(`the numbers have a gap: ${numbers}`)
      if (row!.lastSeq !== numbers.length)
        faults.push(`${numbers.length} events, but the last number is ${row!.lastSeq}`)
      if (reader.position !== row!.lastSeq) faults.push(`the reader stopped at ${reader.position} of ${row!.lastSeq}`)
      const lines = numbers.map((seq) => history.get(seq)!)
      faults.push(...judgeLines(lines, { messages, accepted }))
      return [...new Set(faults)]
    },
  }
}

/** Each reply that was taken is there once and by order of claim; each message ends once, and nothing comes behind its end. */
function judgeLines(
  lines: string[],
  { messages, accepted }: { messages: string[]; accepted: { label: string; runId: string; fence: number }[] },
): string[] {
  const faults: string[] = []
  const fences = new Map<string, number>()
  const places = accepted.map((reply) => ({
    ...reply,
    at: lines.flatMap((l, at) => (l.includes(reply.label) ? [at] : [])),
  }))
  for (const { label, at } of places) {
    const spoken = at.filter((index) => lines[index]!.startsWith('output '))
    if (spoken.length !== 1) faults.push(`${label} is in the log ${spoken.length} times`)
  }
  for (const { label, runId, fence } of places.toSorted((a, b) => a.at[0]! - b.at[0]!)) {
    if (fence < (fences.get(runId) ?? 0)) faults.push(`${label} stands behind a reply of a later claim`)
    fences.set(runId, fence)
  }
  const spoken = lines.filter((line) => line.startsWith('output ')).length
  if (spoken !== accepted.length) faults.push(`${accepted.length} replies were taken, ${spoken} are in the log`)
  for (const messageId of messages) {
    const own = lines.filter((line) => line.includes(`"messageId":"${messageId}"`))
    const ends = own.filter((line) => line.startsWith('complete ')).length
    if (ends !== 1) faults.push(`a message ended ${ends} times`)
    else if (!own.at(-1)!.startsWith('complete ')) faults.push('something was said behind the end')
  }
  return faults
}
