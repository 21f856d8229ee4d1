import type { Sql } from '../../db/client.ts'
import type { Envelope, Place } from '../../lib/envelope.ts'
import { AppError } from '../../lib/errors.ts'

/** Secrets and keys that one organization may keep, its agents' and all kinds counted. */
export const SECRETS_PER_ORGANIZATION_MAX = 500

export type SecretKind = 'secret' | 'provider' | 'oidc'

/** Which secret. `agentId` is empty for what the whole organization shares. */
export interface SecretKey {
  organizationId: string
  agentId: string
  kind: SecretKind
  name: string
}

export interface OpenedSecret {
  name: string
  agentId: string
  allowedHosts: string[]
  /** Undefined when it cannot be opened with the keys of this process. */
  value: string | undefined
}

export function secretPlace({ organizationId, agentId, kind, name }: SecretKey): Place {
  return [organizationId, 'secrets', agentId, kind, name, 'sealed']
}

/**
 * Seals a value and stores it, in the caller's transaction. Whoever stores something for an agent holds a lock on the
 * agent's row, so that nothing outlives the agent.
 * @throws AppError 'limit_reached' when the organization has as many as it may.
 */
export async function putSecret(
  tx: Sql,
  envelope: Envelope,
  { key, value, allowedHosts = [] }: { key: SecretKey; value: string; allowedHosts?: string[] },
): Promise<{ created: boolean; updatedAt: Date }> {
  const { organizationId, agentId, kind, name } = key
  // Two at once would each count without the other.
  await tx`select 1 from organizations where id = ${organizationId} for no key update`
  const [row] = await tx<{ created: boolean; updatedAt: Date }[]>`
    insert into secrets (organization_id, agent_id, kind, name, sealed, key_id, allowed_hosts)
    values (${organizationId}, ${agentId}, ${kind}, ${name}, ${envelope.seal(value, secretPlace(key))}, ${envelope.keyId},
      ${allowedHosts})
    on conflict (organization_id, agent_id, kind, name) do update set sealed = excluded.sealed, key_id = excluded.key_id,
      allowed_hosts = excluded.allowed_hosts, updated_at = now()
    returning (xmax = 0) as created, updated_at as "updatedAt"`
  if (row!.created) await checkCount(tx, organizationId)
  return row!
}

/** False when there was none. */
export async function dropSecret(tx: Sql, { organizationId, agentId, kind, name }: SecretKey): Promise<boolean> {
  const rows = await tx`
    delete from secrets where organization_id = ${organizationId} and agent_id = ${agentId} and kind = ${kind}
      and name = ${name} returning 1`
  return rows.length > 0
}

/** Part of the removal of an agent: one that is made later under the same id must not find its secrets. */
export async function dropAgentSecrets(
  tx: Sql,
  { organizationId, agentId }: { organizationId: string; agentId: string },
): Promise<void> {
  await tx`delete from secrets where organization_id = ${organizationId} and agent_id = ${agentId}`
}

/** The organization's secrets of a kind and those of one agent, opened; null for all names. */
export async function readSecrets(
  sql: Sql,
  envelope: Envelope,
  { organizationId, agentId, kind, names }: Omit<SecretKey, 'name'> & { names: string[] | null },
): Promise<OpenedSecret[]> {
  const rows = await sql<{ name: string; agentId: string; sealed: string; allowedHosts: string[] }[]>`
    select name, agent_id as "agentId", sealed, allowed_hosts as "allowedHosts" from secrets
    where organization_id = ${organizationId} and agent_id in ('', ${agentId}) and kind = ${kind}
      and (${names}::text[] is null or name = any(${names}::text[]))`
  return rows.map(({ sealed, ...row }) => {
    const place = secretPlace({ organizationId, kind, agentId: row.agentId, name: row.name })
    return { ...row, value: tryToOpen(envelope, sealed, place) }
  })
}

function tryToOpen(envelope: Envelope, sealed: string, place: Place): string | undefined {
  try {
    return envelope.open(sealed, place)
  } catch {
    return undefined
  }
}

async function checkCount(tx: Sql, organizationId: string) {
  const [row] = await tx<{ count: number }[]>`
    select count(*)::int as count from secrets where organization_id = ${organizationId}`
  if (row!.count <= SECRETS_PER_ORGANIZATION_MAX) return
  const message = `An organization may keep ${SECRETS_PER_ORGANIZATION_MAX} secrets; remove some first`
  throw new AppError('limit_reached', message)
}
