import type { Sql } from '../../db/client.ts'
import type { Logger } from '../../lib/logger.ts'
import { createLoop, type Loop } from '../../lib/loop.ts'

const EVERY_MS = 60_000
/** Keys noted in one statement, and those that are remembered at most; of more, some uses go unnoticed. */
const PAGE = 500
const KEYS_MAX = 50_000

export interface KeyUse extends Loop {
  /** A request was made with this key. Costs nothing: it is written later, together with others. */
  note(key: { organizationId: string; keyId: string }): void
}

/** Writes down when keys were last used, at most once a minute for each, so that no request waits for it. */
export function createKeyUse({ sql, log }: { sql: Sql; log: Logger }): KeyUse {
  let used = new Map<string, { organizationId: string; keyId: string }>()
  const loop = createLoop({ log }, { name: 'key use', everyMs: EVERY_MS, pass })

  async function pass() {
    const page = [...used.values()].slice(0, PAGE)
    if (page.length === 0) return false
    // In the order of ids, so that replicas wait for each other and never in a circle.
    await sql`
      update api_keys k set last_used_at = now()
      from (
        select a.organization_id, a.id from api_keys a
        join unnest(${page.map((key) => key.organizationId)}::text[], ${page.map((key) => key.keyId)}::text[])
          as u (organization_id, id) on u.organization_id = a.organization_id and u.id = a.id
        where a.last_used_at is null or a.last_used_at < now() - interval '1 minute' / 2
        order by a.organization_id, a.id for no key update of a
      ) u
      where k.organization_id = u.organization_id and k.id = u.id`
    for (const { keyId } of page) used.delete(keyId)
    return page.length === PAGE
  }

  return {
    ...loop,
    note(key) {
      if (used.size < KEYS_MAX) used.set(key.keyId, key)
    },
    async stop() {
      await loop.stop()
      await pass().catch(() => {})
      used = new Map()
    },
  }
}
