import type { Sql } from '../../db/client.ts'
import { type AuditActor, type AuditEntry, recordAudit } from '../audit/record.ts'

/** Who did it: a person in a browser, or a program of theirs; the organization is not theirs to choose. */
export type AppActor = Omit<AuditActor, 'organizationId'>

/**
 * Writes down what happened to a program of a person in each organization that the person belongs to, since it acts in
 * all of them.
 */
export async function recordApp(
  tx: Sql,
  actor: AppActor,
  entry: { action: `app.${string}`; clientId: string; details?: AuditEntry['details'] },
): Promise<void> {
  const { action, clientId, details = {} } = entry
  const places = await tx<{ organizationId: string }[]>`
    select organization_id as "organizationId" from members where user_id = ${actor.userId} order by organization_id`
  for (const { organizationId } of places) {
    await recordAudit(tx, { ...actor, organizationId }, { action, targetKind: 'app', targetId: clientId, details })
  }
}
