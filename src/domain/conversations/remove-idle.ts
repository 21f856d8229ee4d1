import type { Sql } from '../../db/client.ts'
import { removeReplies } from '../../queue/thread-response.ts'
import { removeConversationLogs } from '../../sse/event-log.ts'
import { removePresence } from '../../sse/presence.ts'

/** Conversations looked at in one batch: index entries and the head of each row. */
const LOOKED_AT_MAX = 2_000

interface Key {
  organizationId: string
  id: string
}

/**
 * Removes conversations in which nothing was said for `keepMs`, ended or not, with their transcript, runs, files and events.
 * Looks at the next ones behind `after`; `next` is where to go on, null at the end.
 *
 * A conversation that is taken ends in the first batch, so that nobody writes to it any more; its files go before it, a few
 * at a time: all of them can be gigabytes. One that is unfinished, or that somebody holds at the moment, is left.
 */
export async function removeIdleConversations(
  tx: Sql,
  args: { keepMs: number; after: Key; conversationsMax: number; filesMax: number },
): Promise<{ removed: number; next: Key | null; more: boolean }> {
  const { after, conversationsMax, filesMax } = args
  const [page] = await tx<{ last: Key | null; seen: number; idle: Key[] }[]>`
    with page as materialized (
      select organization_id, id, open_runs = 0 and last_activity_at < now() - ${args.keepMs} * interval '1 millisecond' as idle
      from conversations where (organization_id, id) > (${after.organizationId}::text, ${after.id}::text)
      order by organization_id, id limit ${LOOKED_AT_MAX}
    ), due as (
      select organization_id, id from page where idle order by organization_id, id limit ${conversationsMax}
    )
    select count(*)::int as seen,
      (select jsonb_build_object('organizationId', organization_id, 'id', id) from page
        order by organization_id desc, id desc limit 1) as last,
      coalesce((select jsonb_agg(jsonb_build_object('organizationId', organization_id, 'id', id)
        order by organization_id, id) from due), '[]') as idle
    from page`
  const { last, seen, idle } = page!
  let removed = 0
  let filesLeft = filesMax
  for (const key of idle) {
    const outcome = await removeOne(tx, key, { keepMs: args.keepMs, filesMax: filesLeft })
    filesLeft -= outcome.files
    if (outcome.gone) removed++
    // It is not done: the next batch begins with it.
    if (filesLeft <= 0) return { removed, next: justBefore(after, idle, key), more: true }
  }
  // There may be more of them on this page.
  if (idle.length === conversationsMax) return { removed, next: idle.at(-1)!, more: true }
  return { removed, next: seen === LOOKED_AT_MAX ? last : null, more: false }
}

function justBefore(after: Key, idle: Key[], key: Key): Key {
  return idle[idle.indexOf(key) - 1] ?? after
}

async function removeOne(
  tx: Sql,
  { organizationId, id }: Key,
  { keepMs, filesMax }: { keepMs: number; filesMax: number },
): Promise<{ files: number; gone: boolean }> {
  const ended = await tx`
    update conversations set status = 'ended', resumable = false where (organization_id, id) in (
      select organization_id, id from conversations
      where organization_id = ${organizationId} and id = ${id} and open_runs = 0
        and last_activity_at < now() - ${keepMs} * interval '1 millisecond'
      for update skip locked)
    returning 1`
  if (ended.length === 0) return { files: 0, gone: false }
  const files = await tx`
    delete from files where organization_id = ${organizationId} and id in (
      select id from files where organization_id = ${organizationId} and conversation_id = ${id} limit ${filesMax})
    returning 1`
  if (files.length === filesMax) return { files: files.length, gone: false }
  const ids = [id]
  await removeConversationLogs(tx, { organizationId, ids })
  await removeReplies(tx, { organizationId, ids })
  await removePresence(tx, { organizationId, ids })
  await tx`delete from conversations where organization_id = ${organizationId} and id = ${id}`
  return { files: files.length, gone: true }
}
