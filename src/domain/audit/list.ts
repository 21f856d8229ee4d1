import type { Sql } from '../../db/client.ts'
import { AppError } from '../../lib/errors.ts'
import { isUuid } from '../../lib/ids.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'

export interface AuditRecord {
  id: string
  at: Date
  actorKind: string
  /** The credential: a key, a browser session, an OAuth client, a conversation. */
  actorId: string
  /** The person behind it, while they exist. */
  userId: string | null
  userEmail: string | null
  action: string
  targetKind: string
  targetId: string
  ip: string | null
  userAgent: string | null
  requestId: string | null
  details: Record<string, unknown>
}

export interface AuditFilter {
  /** An action, or with a dot at its end all that begin so: `key.` */
  action?: string | undefined
  /** Id of a person or of a credential. */
  by?: string | undefined
  /** Id of what it was done to. */
  target?: string | undefined
  from?: Date | undefined
  /** Not included. */
  to?: Date | undefined
}

/** How far clocks of replicas, which the ids go by, may be from the database's, which `at` goes by. */
const CLOCKS_APART_MS = 3_600_000

/**
 * The audit log from the newest entry down, a page at a time; `after` is the id of the last entry seen. Served by
 * `audit_log_pkey`: ids are in the order of time, so that bounds of time are bounds of ids as well.
 * @throws AppError 'forbidden' to all but owners; 'invalid_request' for an `after` that is no entry's id.
 */
export async function listAudit(
  sql: Sql,
  { actor, limit, after, ...filter }: { actor: Actor; limit: number; after?: string | undefined } & AuditFilter,
): Promise<AuditRecord[]> {
  requirePermission(actor, 'audit:read')
  if (after !== undefined && !isUuid(after)) throw new AppError('invalid_request', 'query after: is no entry')
  const { action, by, target, from, to } = filter
  const only = [
    after === undefined ? sql`` : sql`and a.id < ${after}`,
    action === undefined
      ? sql``
      : action.endsWith('.')
        ? sql`and starts_with(a.action, ${action})`
        : sql`and a.action = ${action}`,
    by === undefined ? sql`` : sql`and (a.user_id = ${by} or a.actor_id = ${by})`,
    target === undefined ? sql`` : sql`and a.target_id = ${target}`,
    from === undefined ? sql`` : sql`and a.at >= ${from} and a.id >= ${firstId(from.getTime() - CLOCKS_APART_MS)}`,
    to === undefined ? sql`` : sql`and a.at < ${to} and a.id < ${firstId(to.getTime() + CLOCKS_APART_MS)}`,
  ]
  return sql<AuditRecord[]>`
    select a.id, a.at, a.actor_kind as "actorKind", a.actor_id as "actorId", a.user_id as "userId",
      u.email as "userEmail", a.action, a.target_kind as "targetKind", a.target_id as "targetId", a.ip,
      a.user_agent as "userAgent", a.request_id as "requestId", a.details
    from audit_log a left join users u on u.id = a.user_id
    where a.organization_id = ${actor.organizationId} ${only[0]!} ${only[1]!} ${only[2]!} ${only[3]!} ${only[4]!} ${only[5]!}
    order by a.id desc limit ${limit}`
}

/** The smallest id that could have been made at a time. */
function firstId(ms: number): string {
  const time = Math.max(0, ms).toString(16).padStart(12, '0')
  return `${time.slice(0, 8)}-${time.slice(8)}-0000-0000-000000000000`
}
