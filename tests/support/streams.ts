import type { Socket } from 'node:net'
import type { Database, Sql } from '../../src/db/client.ts'
import { createNotifier } from '../../src/db/notify.ts'
import { inTransaction } from '../../src/db/transaction.ts'
import { type Actor, actorWithAll } from '../../src/domain/accounts/actor.ts'
import { noteEndsSeen } from '../../src/domain/runs/ends-seen.ts'
import type { Signals } from '../../src/domain/signals.ts'
import { createSignals, hearSignals } from '../../src/doorbells.ts'
import { eventRoutes } from '../../src/http/routes/events.ts'
import type { AppError } from '../../src/lib/errors.ts'
import { newId } from '../../src/lib/ids.ts'
import { createReplica } from '../../src/queue/replica.ts'
import { appendEvents, NO_REPLIES, numberEvents, type PublishedEvents } from '../../src/queue/thread-response.ts'
import { encodeEventLine } from '../../src/sse/frames.ts'
import { createSseManager, type SseManager, type SseManagerOptions } from '../../src/sse/manager.ts'
import { createPresence } from '../../src/sse/presence.ts'
import { createTail, type Tail } from '../../src/sse/tail.ts'
import { serve } from './http.ts'
import type { World } from './world.ts'

export interface ConversationKey {
  organizationId: string
  conversationId: string
}

export interface StreamReplica {
  readonly db: Database
  readonly tail: Tail
  readonly sse: SseManager
  readonly signals: Signals
  /** Server side of the streams opened here, oldest first, each until it can be collected. */
  readonly sockets: WeakRef<Socket>[]
  /** What there was while a stream was opened and is of no use behind that, each until it can be collected. */
  readonly leftovers: WeakRef<object>[]
  /** As the rows of its open streams have it. */
  readonly id: string
  url(key: ConversationKey): string
}

export interface StreamWorld {
  readonly sql: Sql
  conversation(): Promise<ConversationKey>
  /** Appends events to the log, as the end of a run does, and returns the row. Tells nobody. */
  publish(key: ConversationKey, events: [name: string, data: Record<string, unknown>][]): Promise<PublishedEvents>
  /** Marks all events so far as a turn that ended a year ago: `pruneLog` may take them. */
  endTurn(key: ConversationKey): Promise<void>
  /** A replica with the product's own route, manager, tail and doorbells. */
  startReplica(options?: ReplicaOptions): Promise<StreamReplica>
}

export interface ReplicaOptions extends Partial<SseManagerOptions> {
  /** Rings for nobody and hears nobody. */
  deaf?: boolean
  pollMs?: number
  /** Its tail does not run before the test starts it, as on a machine that sleeps. */
  asleep?: boolean
  /** Runs when it is decided where a stream starts, and nothing of it exists yet. */
  beforeAttach?(): Promise<void>
  /** Who asks, once more, while a stream is open. */
  authenticateAgain?(): Promise<Actor>
}

const DEFAULTS: SseManagerOptions = {
  streamsMax: 10_000,
  streamsPerConversationMax: 1_000,
  // Tests that want pings ask for them; elsewhere one would come at a moment of its own.
  pingMs: 3_600_000,
  bufferBytesMax: 1_048_576,
}

/** An organization with conversations whose events can be published and streamed, on any number of replicas. */
export async function createStreamWorld(world: World): Promise<StreamWorld> {
  const { sql } = await world.replica()
  const organizationId = world.unique('org')
  await sql`insert into organizations (id, slug, name) values (${organizationId}, ${organizationId}, 'Test')`
  await sql`insert into agents (organization_id, id, name) values (${organizationId}, 'agent', 'Agent')`
  return {
    sql,
    async conversation() {
      const key = { organizationId, conversationId: newId('conv') }
      await sql`
        insert into conversations (organization_id, id, agent_id, user_id, thread)
        values (${organizationId}, ${key.conversationId}, 'agent', 'user', ${key.conversationId})`
      return key
    },
    publish: (key, events) => publish(sql, key, events),
    endTurn: (key) => endTurn(sql, key),
    startReplica: (options) => startReplica(world, organizationId, options ?? {}),
  }
}

async function publish(sql: Sql, key: ConversationKey, events: [string, Record<string, unknown>][]) {
  return inTransaction(sql, async (tx) => {
    const [conversation] = await tx<{ lastSeq: number }[]>`
      select last_seq as "lastSeq" from conversations
      where organization_id = ${key.organizationId} and id = ${key.conversationId} for no key update`
    const extra = events.map(([name, data]) => encodeEventLine(name, data))
    const row = numberEvents(NO_REPLIES, { ...key, lastSeq: conversation!.lastSeq, extra })!
    await appendEvents(tx, row)
    await tx`
      update conversations set last_seq = ${row.lastSeq}
      where organization_id = ${key.organizationId} and id = ${key.conversationId}`
    return row
  })
}

async function endTurn(sql: Sql, { organizationId, conversationId }: ConversationKey) {
  await sql`
    with turn as (
      update conversations set end_seq = last_seq, last_turn = last_turn + 1
      where organization_id = ${organizationId} and id = ${conversationId} returning last_turn, last_seq
    )
    insert into runs (organization_id, id, conversation_id, turn, message_id, state, start_seq, end_seq, ended_at, end_seen_at)
    select ${organizationId}, gen_random_uuid(), ${conversationId}, last_turn, gen_random_uuid()::text, 'completed', 0,
      last_seq, now() - interval '1 year', now() from turn`
}

async function startReplica(
  world: World,
  organizationId: string,
  { deaf = false, asleep = false, pollMs = 60_000, beforeAttach, authenticateAgain, ...options }: ReplicaOptions,
): Promise<StreamReplica> {
  const db = await world.replica()
  const { sql } = db
  const { log } = world
  const id = newId('replica')
  await (await world.run(createReplica({ sql, log }, { id, version: 'test', leaseMs: 60_000 }))).register()
  const presence = await world.run(createPresence({ sql, log, noteEndsSeen: (seen) => noteEndsSeen(sql, seen) }))
  const tail = createTail({ sql, log }, { pollMs: () => pollMs })
  if (!asleep) await world.run(tail)
  const sse = await world.run(createSseManager({ sql, tail, log }, { ...DEFAULTS, ...options }))
  const notifier = await world.run(createNotifier({ sql, log }))
  // The part of a replica that runs turns has no place here.
  const parts = { tail, runner: { ring() {}, stopRun() {}, forget() {} }, authenticator: { forget() {} } }
  const signals = createSignals({ notifier, parts: () => parts }, { replica: id })
  if (!deaf) world.defer(await hearSignals(db, parts, { replica: id }))

  const delayed: SseManager = {
    ...sse,
    attach: (outgoing, args) =>
      void beforeAttach?.()
        .then(() => sse.attach(outgoing, args))
        .catch((error: AppError) => outgoing.writeHead(503).end(error.code)),
  }
  const sockets: WeakRef<Socket>[] = []
  const leftovers: WeakRef<object>[] = []
  const { url } = await serve((app) => {
    app.use('*', async (c, next) => {
      sockets.push(new WeakRef(c.env.outgoing.socket!))
      for (const left of [c, c.req.raw, c.req.raw.headers, c.env.incoming.headers]) leftovers.push(new WeakRef(left))
      c.set('actor', actorWithAll({ organizationId, organizationSlug: organizationId, userId: 'user' }))
      c.set('sql', sql)
      if (authenticateAgain) c.set('authenticateAgain', authenticateAgain)
      await next()
    })
    app.route('/', eventRoutes({ sse: beforeAttach ? delayed : sse, presence, replica: id }))
  })
  const urlOf = ({ conversationId }: ConversationKey) => `${url}/api/v1/agents/${conversationId}/events`
  return { id, db, tail, sse, signals, sockets, leftovers, url: urlOf }
}
