import { vi } from 'vitest'
import type { Sql } from '../../src/db/client.ts'
import { inTransaction } from '../../src/db/transaction.ts'
import { type Actor, actorWithAll } from '../../src/domain/accounts/actor.ts'
import { type Following, followConversation } from '../../src/domain/conversations/follow.ts'
import { type OpenConversation, openConversation } from '../../src/domain/conversations/open.ts'
import { type Accepted, type AcceptOptions, acceptMessage, type NewMessage } from '../../src/domain/messages/accept.ts'
import { type EndOfRun, type EndResult, endRun } from '../../src/domain/runs/end.ts'
import { noteEndsSeen } from '../../src/domain/runs/ends-seen.ts'
import type { Signals } from '../../src/domain/signals.ts'
import { sha256 } from '../../src/lib/ids.ts'
import { createReplica } from '../../src/queue/replica.ts'
import { type ClaimedRun, claimReadyRuns } from '../../src/queue/runs.ts'
import {
  insertReplies,
  type PublishedEvents,
  publishReplies,
  type ReplyBatch,
} from '../../src/queue/thread-response.ts'
import { readLogs } from '../../src/sse/event-log.ts'
import { encodeEventLine, type LoggedEvent, parseEventLines } from '../../src/sse/frames.ts'
import type { World } from './world.ts'

/** An organization with an agent, as the verbs of the product make and use them. */
export interface Scene {
  readonly sql: Sql
  readonly organizationId: string
  readonly actor: Actor
  readonly agentId: string
  readonly signals: RecordedSignals
  /** A new conversation's id. */
  open(over?: Partial<OpenConversation>): Promise<string>
  /** Accepts a message, by default one that nothing else is like. */
  post(conversationId: string, over?: Partial<NewMessage>, options?: Partial<AcceptOptions>): Promise<Accepted>
  /** Accepts a message that this replica takes on in the same commit. */
  start(conversationId: string, over?: Partial<NewMessage>, options?: Partial<AcceptOptions>): Promise<ClaimedRun>
  /** Claims what is ready, of every organization. */
  claim(over?: Partial<Parameters<typeof claimReadyRuns>[1]>): Promise<ClaimedRun[]>
  /** Claims the one run of this organization that is ready. */
  claimOne(over?: Partial<Parameters<typeof claimReadyRuns>[1]>): Promise<ClaimedRun>
  /** Streams pieces of text, each as an event; all of them wait on the queue afterwards. False when they were refused. */
  say(run: ClaimedRun, ...pieces: string[]): Promise<boolean>
  /** Publishes all that waits. */
  publish(): Promise<PublishedEvents[]>
  end(run: ClaimedRun, over?: Partial<EndOfRun>): Promise<EndResult>
  /** All that a conversation's log holds after `after`. */
  events(conversationId: string, after?: number): Promise<LoggedEvent[]>
  stateOf(runId: string): Promise<string | undefined>
  /** Opens a stream: it counts as open until `leave`. */
  follow(conversationId: string, lastEventId?: string): Promise<Following>
  leave(following: Following): Promise<void>
  /** Notes that a reader has had all ends so far. */
  see(conversationId: string): Promise<void>
  /** Runs `work` in a transaction that stays open, with its locks, until `release` commits it. */
  hold(sql: Sql, work: (tx: Sql) => Promise<unknown>): Promise<{ tx: Sql; release(): Promise<void> }>
  /** Resolves once so many statements of this database wait for a lock. */
  lockWaiters(count: number): Promise<void>
}

export interface RecordedSignals extends Signals {
  readonly ready: (string | undefined)[]
  readonly ended: string[]
  readonly conversationsEnded: string[]
  readonly access: string[]
  readonly publishedEvents: PublishedEvents[]
}

export const USAGE = { inputTokens: 3, outputTokens: 5, cachedInputTokens: 1 }

/** What a scene needs of the test that it is made for. */
type Stage = Pick<World, 'unique' | 'defer' | 'log'>

/** Made in the database of `world`, through `sql` or a pool of its own; removed again after the test. */
export async function createScene(world: World): Promise<Scene>
export async function createScene(world: Stage, given: Sql): Promise<Scene>
export async function createScene(world: Stage & Partial<World>, given?: Sql): Promise<Scene> {
  const sql = given ?? (await world.replica!()).sql
  const { organizationId, agentId, actor } = await makeOrganization(world, sql)
  const replica = createReplica(
    { sql, log: world.log },
    { id: world.unique('replica'), version: '1', leaseMs: 600_000 },
  )
  await replica.register()
  world.defer(replica.leave)
  const signals = recordSignals()
  const batches = new Map<string, number>()

  const post: Scene['post'] = (conversationId, over, options) =>
    acceptMessage(
      { sql, signals },
      { ...newMessage(world, organizationId), conversationId, ...over },
      { ...ACCEPT, ...options },
    )

  const claim: Scene['claim'] = (over) => claimReadyRuns(sql, { ...CLAIM, ...over })

  return {
    sql,
    organizationId,
    actor,
    agentId,
    signals,
    post,
    claim,
    async open(over) {
      const asked = { actor, forceNew: true, dryRun: false, settings: {}, thread: world.unique('thread'), ...over }
      return (await openConversation(sql, asked)).conversationId
    },
    async start(conversationId, over, options) {
      const { claimed } = await post(conversationId, over, { claimHere: true, ...options })
      if (!claimed) throw new Error('the conversation was busy')
      return claimed
    },
    async claimOne(over) {
      const claimed = (await claim(over)).filter((run) => run.organizationId === organizationId)
      if (claimed.length !== 1) throw new Error(`${claimed.length} runs were claimed`)
      return claimed[0]!
    },
    async say(run, ...pieces) {
      const key = `${run.id} ${run.fence}`
      const batch = (batches.get(key) ?? 0) + 1
      const stored = await insertReplies(sql, [
        replyBatch(
          run,
          batch,
          pieces.map((piece) => deltaLine(run, piece)),
        ),
      ])
      if (stored.has(run.id)) batches.set(key, batch)
      return stored.has(run.id)
    },
    publish: async () => (await publishReplies(sql, { rowsMax: 500, afterId: 0 })).published,
    end: (run, over) => endRun({ sql, signals }, { ...run, status: 'completed', ...over }),
    events: (conversationId, after) => readEvents(sql, { organizationId, conversationId }, after),
    async stateOf(runId) {
      const rows = await sql<{ state: string }[]>`
        select state from runs where organization_id = ${organizationId} and id = ${runId}`
      return rows[0]?.state
    },
    follow: (conversationId, lastEventId) =>
      followConversation(sql, { actor, conversationId, lastEventId, replica: replica.id }),
    async leave({ stream }) {
      await sql`delete from stream_presence where id = ${stream.id}`
    },
    see: (conversationId) => noteEndsSeen(sql, [{ organizationId, conversationId, seq: Number.MAX_SAFE_INTEGER }]),
    hold: (on, work) => holdOpen(world, on, work),
    lockWaiters: (count) => waitForLockWaiters(sql, count),
  }
}

const ACCEPT: AcceptOptions = {
  replica: 'replica-1',
  leaseMs: 60_000,
  depthMax: 100,
  organizationMax: 1_000,
  workerIdleMs: 60_000,
  preferredMs: 60_000,
  claimHere: false,
  workerHere: false,
}

const CLAIM = { replica: 'replica-1', limit: 100, leaseMs: 60_000, organizationMax: 1_000, afterOrganization: '' }

async function makeOrganization(world: Stage, sql: Sql) {
  const organizationId = world.unique('org')
  const agentId = 'assistant'
  await sql`insert into organizations (id, slug, name) values (${organizationId}, ${organizationId}, 'Test')`
  await sql`
    insert into agents (organization_id, id, name, is_default) values (${organizationId}, ${agentId}, 'Assistant', true)`
  world.defer(async () => {
    await sql`delete from organizations where id = ${organizationId}`
    await sql`delete from thread_response where organization_id = ${organizationId}`
    await sql`delete from event_log where organization_id = ${organizationId}`
  })
  const actor = actorWithAll({ organizationId, organizationSlug: organizationId, userId: 'user-1' })
  return { organizationId, agentId, actor }
}

function newMessage(world: Stage, organizationId: string): Omit<NewMessage, 'conversationId'> {
  const messageId = world.unique('message')
  return {
    organizationId,
    messageId,
    content: { role: 'user', content: `text of ${messageId}` },
    text: `text of ${messageId}`,
    bodyHash: sha256(messageId),
    fileIds: [],
    onBusy: 'enqueue',
    webhookUrl: null,
    traceparent: null,
  }
}

/** Notes what a verb says after its commit, in order. */
export function recordSignals(): RecordedSignals {
  const recorded = {
    ready: [] as (string | undefined)[],
    ended: [] as string[],
    conversationsEnded: [] as string[],
    access: [] as string[],
    publishedEvents: [] as PublishedEvents[],
  }
  return {
    ...recorded,
    published: (events) => void recorded.publishedEvents.push(...events),
    runReady: (preferred) => void recorded.ready.push(preferred),
    runsEnded: () => {},
    runEnded: (runId) => void recorded.ended.push(runId),
    conversationEnded: ({ conversationId }) => void recorded.conversationsEnded.push(conversationId),
    accessChanged: () => void recorded.access.push('changed'),
  }
}

/** The event by which a piece of text is streamed. */
export function deltaLine(run: { messageId: string }, content: string): string {
  return encodeEventLine('output', { type: 'delta', content, timestamp: 1, messageId: run.messageId })
}

export function replyBatch(run: ClaimedRun, batch: number, lines: string[]): ReplyBatch {
  return { ...run, batch, eventCount: lines.length, events: lines.join('\n') }
}

/** Reads the log to its end, and checks on the way that its numbers have no gap. */
export async function readEvents(
  sql: Sql,
  key: { organizationId: string; conversationId: string },
  after = 0,
): Promise<LoggedEvent[]> {
  const events: LoggedEvent[] = []
  for (;;) {
    const rows = await readLogs(sql, [{ ...key, after: events.at(-1)?.seq ?? after }])
    if (rows.length === 0) break
    events.push(
      ...rows.flatMap((row) => parseEventLines(row.events, row.firstSeq)).filter((event) => event.seq > after),
    )
  }
  events.forEach((event, index) => {
    if (index > 0 && event.seq !== events[index - 1]!.seq + 1) throw new Error(`the log has a gap before ${event.seq}`)
  })
  return events
}

/** Pieces of text streamed as the answer to a message, joined. */
export function textOfEvents(events: LoggedEvent[], messageId: string): string {
  return events
    .filter((event) => event.name === 'output')
    .map((event) => JSON.parse(event.data) as { content: string; messageId: string })
    .filter((data) => data.messageId === messageId)
    .map((data) => data.content)
    .join('')
}

export interface CompleteData {
  messageId: string
  processedMessageIds: string[]
  finalText: string
  status: string
  usage: unknown
}

export function completesOf(events: LoggedEvent[]): CompleteData[] {
  return events.filter((event) => event.name === 'complete').map((event) => JSON.parse(event.data) as CompleteData)
}

async function holdOpen(world: Stage, sql: Sql, work: (tx: Sql) => Promise<unknown>) {
  const gate = Promise.withResolvers<void>()
  const begun = Promise.withResolvers<Sql>()
  const done = inTransaction(sql, async (tx) => {
    await work(tx)
    begun.resolve(tx)
    await gate.promise
  })
  done.catch(begun.reject)
  const release = async () => {
    gate.resolve()
    await done
  }
  world.defer(() => release().catch(() => {}))
  return { tx: await begun.promise, release }
}

/** Resolves once `check` no longer throws. The bound is for a test that hangs, not a limit on how fast things are. */
export function until<T>(check: () => T | Promise<T>): Promise<T> {
  return vi.waitFor(check, { timeout: 20_000, interval: 5 })
}

async function waitForLockWaiters(sql: Sql, count: number) {
  await until(async () => {
    const [row] = await sql<{ n: number }[]>`
      select count(*)::int as n from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock'`
    if (row!.n < count) throw new Error(`${row!.n} statements wait for a lock, not ${count}`)
  })
}
