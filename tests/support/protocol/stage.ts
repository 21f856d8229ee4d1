import type { Sql } from '../../../src/db/client.ts'
import { createLogger } from '../../../src/lib/logger.ts'
import type { TestDatabase } from '../database.ts'
import { createScene, type Scene } from '../scene.ts'
import { type Connection, createConnection } from './connection.ts'
import { createReplicaState, type Ledger, type Replica } from './ledger.ts'
import { createMutation, type Mutation } from './mutant.ts'

const REPLICAS = 3
const CONVERSATION = 'conversation-1'

/** A database and connections to it, which many schedules use one after the other. */
export interface Stage {
  /** Sees what is committed, and who waits; the product never runs on it. */
  readonly watcher: Sql
  readonly connections: Connection[]
  readonly mutation: Mutation
  /** Forgets the schedule before, and begins with one conversation in which nothing was said. */
  clear(): Promise<{ ledger: Ledger; replicas: Replica[] }>
  /** Other connections: after a schedule that stopped halfway, or before the driver replaces those that have grown old. */
  renew(): Promise<void>
  close(): Promise<void>
}

export async function createStage(database: TestDatabase): Promise<Stage> {
  const mutation = createMutation()
  const connect = async () => {
    const pools = await Promise.all(Array.from({ length: REPLICAS }, () => database.open({ poolMax: 1 })))
    return { pools, connections: await Promise.all(pools.map((pool) => createConnection(pool, mutation))) }
  }
  let own = await connect()
  const watching = await database.open({ poolMax: 2 })
  const { sql } = watching
  const undo: (() => Promise<unknown>)[] = []
  const unique = (name: string) => `${name}-of-the-protocol`
  const log = createLogger({ level: 'silent', pretty: false })
  const scene = await createScene({ log, unique, defer: (step) => void undo.push(step) }, sql)
  await sql`
    insert into replicas (id, version, lease_until)
    select 'replica-' || n, '1', now() + interval '1 day' from generate_series(1, ${REPLICAS}::int) n
    on conflict (id) do update set lease_until = excluded.lease_until`
  return {
    ...{ watcher: sql, mutation },
    get connections() {
      return own.connections
    },
    clear: () => clear(sql, scene),
    async renew() {
      await Promise.all(own.pools.map((pool) => pool.close()))
      own = await connect()
    },
    async close() {
      for (const step of undo.reverse()) await step()
      for (const pool of [...own.pools, watching]) await pool.close()
    },
  }
}

async function clear(sql: Sql, { organizationId, agentId, actor }: Scene) {
  await sql`
    with gone as (delete from event_log where organization_id = ${organizationId}),
      unheard as (delete from thread_response where organization_id = ${organizationId}),
      dead as (delete from dead_letters where organization_id = ${organizationId}),
      closed as (delete from stream_presence where organization_id = ${organizationId})
    delete from conversations where organization_id = ${organizationId}`
  await sql`
    insert into conversations (organization_id, id, agent_id, user_id, thread)
    values (${organizationId}, ${CONVERSATION}, ${agentId}, 'user', 'thread')`
  const ledger: Ledger = {
    ...{ organizationId, conversationId: CONVERSATION, actor },
    ...{ faults: [], events: new Map(), accepted: new Map(), replies: [], hints: [], mustBeOver: new Set<string>() },
    ...{ alone: false, wasUnknown: false },
    now: { lastSeq: 0, prunedSeq: 0, openRuns: 0, ended: false, runs: [] },
  }
  return {
    ledger,
    replicas: Array.from({ length: REPLICAS }, (_, index) => createReplicaState(`replica-${index + 1}`)),
  }
}
