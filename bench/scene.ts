/** What the measurements put into a database before they begin: an organization, conversations, runs that somebody holds. */
import { openDatabase, type Sql } from '../src/db/client.ts'
import { bootstrap } from '../src/domain/accounts/bootstrap.ts'
import { acceptMessage } from '../src/domain/messages/accept.ts'
import type { Signals } from '../src/domain/signals.ts'
import type { ClaimedRun } from '../src/queue/runs.ts'
import { log } from './support.ts'

/** Of a replica that tells nobody anything. */
export const SILENT: Signals = {
  published() {},
  runReady() {},
  runsEnded() {},
  runEnded() {},
  conversationEnded() {},
  accessChanged() {},
}

/** A text of the size that a streamed word group or a short message has, with what belongs to it. */
export const PAYLOAD = { type: 'delta', thread: 'th_0123456789abcdef', text: 'x'.repeat(140) }

export interface Scene {
  sql: Sql
  organizationId: string
  /** An API key that may do everything. */
  key: string
  /** Names of conversations that do not repeat. */
  conversations(count: number): Promise<string[]>
  /** Conversations, each with a run that this replica holds for an hour. */
  held(count: number): Promise<ClaimedRun[]>
  close(): Promise<void>
}

/** On a migrated database. The first on it makes the organization. */
export async function createScene(url: string, { poolMax = 16 } = {}): Promise<Scene> {
  const db = await openDatabase({ url, poolMax, dataDir: null, log })
  const { sql } = db
  const made = await bootstrap(sql, { onlyFirst: true })
  const [org] = await sql<{ id: string }[]>`select id from organizations`
  const organizationId = org!.id
  let serial = 0

  async function conversations(count: number, openRuns = 0): Promise<string[]> {
    const names = Array.from({ length: count }, () => `conv_${++serial}`)
    await sql`
      insert into conversations (organization_id, id, agent_id, user_id, thread, open_runs, last_turn)
      select ${organizationId}, name, 'assistant', 'bench', name, ${openRuns}, ${openRuns}
      from unnest(${names}::text[]) as x (name)`
    return names
  }

  return {
    sql,
    organizationId,
    key: made?.token ?? '',
    conversations,
    async held(count) {
      const names = await conversations(count, 1)
      const rows = await sql<{ id: string; conversationId: string }[]>`
        insert into runs (organization_id, id, conversation_id, turn, message_id, state, fence, attempt, lease_until, replica)
        select ${organizationId}, gen_random_uuid(), name, 1, 'm', 'running', 1, 1, now() + interval '1 hour', 'bench'
        from unnest(${names}::text[]) as x (name) returning id, conversation_id as "conversationId"`
      const common = { organizationId, turn: 1, messageId: 'm', attempt: 1, fence: 1, traceparent: null }
      return rows.map((row) => ({ ...common, ...row }))
    },
    close: db.close,
  }
}

const ACCEPT_OPTIONS = {
  ...{ replica: 'writer', leaseMs: 60_000, depthMax: 1e6, organizationMax: 1e6, workerIdleMs: 1, preferredMs: 1 },
  workerHere: false,
}

/** Who accepts messages by the statement of the product, one a call, under ids of its own. */
export function createWriter({ sql, organizationId }: Scene, signals: Signals) {
  let serial = 0
  return (conversationId: string, claimHere = false) =>
    acceptMessage(
      { sql, signals },
      {
        ...{ organizationId, conversationId, messageId: `m${++serial}` },
        content: { role: 'user', content: PAYLOAD.text },
        ...{ text: PAYLOAD.text, bodyHash: 'hash', fileIds: [], onBusy: 'enqueue' as const },
        ...{ webhookUrl: null, traceparent: null },
      },
      { ...ACCEPT_OPTIONS, claimHere },
    )
}
