import type { Sql } from '../../db/client.ts'
import { newTimeId } from '../../lib/ids.ts'
import type { Actor } from '../accounts/actor.ts'

/** What is kept of one text; a name or an address fits, a document does not. */
const TEXT_CHARS_MAX = 300
const DETAILS_CHARS_MAX = 4_000
/** Our own credentials: one that slipped into an entry is a leak that nobody may remove again. */
const CREDENTIAL = /\b(lobu(?:at|rt)?_|ey[\w-]{8,}\.ey)[\w.-]{8,}/g

/** Who did it. `system` is the gateway itself, or its operator at the command line. */
export type AuditActor = Pick<Actor, 'credentialId' | 'organizationId' | 'userId' | 'origin'> & {
  kind: Actor['kind'] | 'system'
}

export interface AuditEntry {
  /** Noun and past verb: `agent.created`, `member.removed`, `sign_in.succeeded`. */
  action: string
  targetKind: string
  targetId: string
  /** What a reader needs to understand the change: names, roles, the fields that changed. Never a secret or message text. */
  details?: Record<string, unknown>
}

/**
 * Writes down what was done, in the transaction of the change itself: either both are there or neither. `tx` may be the
 * organization's own view; the entry belongs to the actor's organization. Texts are cut, details that are still too
 * large are left out.
 */
export async function recordAudit(tx: Sql, actor: AuditActor, entry: AuditEntry): Promise<void> {
  const { kind, credentialId, organizationId, userId, origin } = actor
  // The user of a session token is a name that its maker chose, which may be the id of somebody else.
  const personId = kind === 'session' ? null : userId
  await tx`
    insert into audit_log (organization_id, id, actor_kind, actor_id, user_id, action, target_kind, target_id, ip,
      user_agent, request_id, details)
    values (${organizationId}, ${newTimeId()}, ${kind}, ${cut(credentialId)}, (select id from users where id = ${personId}),
      ${entry.action}, ${entry.targetKind}, ${cut(entry.targetId)}, ${origin?.ip ?? null},
      ${origin?.userAgent ? cut(origin.userAgent) : null}, ${origin?.requestId ?? null}, ${toDetails(entry.details)}::jsonb)`
}

function toDetails(details: Record<string, unknown> = {}): string {
  const json = JSON.stringify(details, (_key, value: unknown) => (typeof value === 'string' ? cut(value) : value))
  return json.length > DETAILS_CHARS_MAX ? JSON.stringify({ tooLarge: json.length }) : json
}

/** Postgres takes no NUL in a text, and half a character, which the cut itself can make, in no JSON. */
function cut(text: string): string {
  return text.replaceAll('\0', '').replaceAll(CREDENTIAL, '[credential]').slice(0, TEXT_CHARS_MAX).toWellFormed()
}
