import type { Sql } from '../../db/client.ts'
import { lazyCommit } from '../../db/lazy-commit.ts'
import type { SeenEnds } from '../../sse/presence.ts'

/** Turns back from a conversation's last that are looked at for an end. */
const ENDS_BACK = 100
/** Older ends are shown to nobody again, so nobody asks whether they were seen. */
const ENDS_FRESH = '1 minute'

/** Notes that ends of these conversations, up to their numbers `seq`, have reached somebody. */
export async function noteEndsSeen(sql: Sql, seen: SeenEnds[]): Promise<void> {
  await sql`
    with fresh as materialized (
      select r.organization_id, r.id
      from unnest(${seen.map((one) => one.organizationId)}::text[], ${seen.map((one) => one.conversationId)}::text[],
        ${seen.map((one) => one.seq)}::bigint[]) as x (organization_id, conversation_id, seq)
      cross join lateral (
        select l.organization_id, l.id, l.end_seq, l.ended_at, l.end_seen_at from runs l
        where l.organization_id = x.organization_id and l.conversation_id = x.conversation_id
        order by l.turn desc limit ${ENDS_BACK}
      ) r
      where r.end_seq <= x.seq and r.end_seen_at is null and r.ended_at > now() - ${ENDS_FRESH}::interval
      order by r.organization_id, r.id
    ), held as materialized (
      select l.id from fresh f cross join lateral (
        select r.id from runs r where r.organization_id = f.organization_id and r.id = f.id and r.end_seen_at is null
        for no key update
      ) l
    )
    update runs r set end_seen_at = now()
    from ${lazyCommit(sql)} where r.id = any(array(select id from held))`
}
