import type { Sql } from '../db/client.ts'
import type { Logger } from '../lib/logger.ts'
import { createLoop, type Loop } from '../lib/loop.ts'

/** Changes written in one statement. */
const PAGE = 1_000

export interface Presence extends Loop {
  /** Notes that this replica now has, or no longer has, open streams of a conversation. */
  mark(key: { organizationId: string; conversationId: string }, present: boolean): void
}

/**
 * Keeps `stream_presence` in step with this replica's streams, so that every replica can say whether a conversation is
 * being watched. Changes are collected and written together; what opens and closes at once is never written.
 * The rows vanish with the replica's own row when it dies.
 */
export function createPresence({ sql, log }: { sql: Sql; log: Logger }, { replica }: { replica: string }): Presence {
  const wanted = new Map<string, { organizationId: string; conversationId: string; present: boolean }>()
  const written = new Set<string>()

  const loop = createLoop({ log }, { name: 'presence', everyMs: 5_000, pass })

  async function pass() {
    const page = [...wanted.entries()].slice(0, PAGE)
    for (const [key] of page) wanted.delete(key)
    const changed = page.filter(([key, change]) => change.present !== written.has(key))
    try {
      await write(
        changed.filter(([, change]) => change.present).map(([, change]) => change),
        true,
      )
      await write(
        changed.filter(([, change]) => !change.present).map(([, change]) => change),
        false,
      )
    } catch (error) {
      for (const [key, change] of page) if (!wanted.has(key)) wanted.set(key, change)
      throw error
    }
    for (const [key, change] of changed) change.present ? written.add(key) : written.delete(key)
    return wanted.size > 0
  }

  async function write(keys: { organizationId: string; conversationId: string }[], present: boolean) {
    if (keys.length === 0) return
    const given = sql`unnest(${keys.map((k) => k.organizationId)}::text[], ${keys.map((k) => k.conversationId)}::text[])
      as x (organization_id, conversation_id)`
    if (present) {
      await sql`
        insert into stream_presence (organization_id, conversation_id, replica_id)
        select x.organization_id, x.conversation_id, ${replica} from ${given} on conflict do nothing`
    } else {
      await sql`
        delete from stream_presence p using ${given}
        where p.organization_id = x.organization_id and p.conversation_id = x.conversation_id and p.replica_id = ${replica}`
    }
  }

  return {
    ...loop,
    mark(key, present) {
      wanted.set(`${key.organizationId}/${key.conversationId}`, { ...key, present })
      loop.ring()
    },
  }
}

/** Whether any living replica has an open stream of the conversation. */
export async function hasOpenStream(
  sql: Sql,
  key: { organizationId: string; conversationId: string },
): Promise<boolean> {
  const rows = await sql`
    select 1 from stream_presence p join replicas r on r.id = p.replica_id and r.lease_until > now()
    where p.organization_id = ${key.organizationId} and p.conversation_id = ${key.conversationId} limit 1`
  return rows.length > 0
}
