import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import type { Envelope } from '../../lib/envelope.ts'
import { AppError } from '../../lib/errors.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { recordAudit } from '../audit/record.ts'
import type { Signals } from '../signals.ts'
import { dropSecret, putSecret, type SecretKey, type SecretKind } from './store.ts'

/** What can be seen of a secret. Its value never leaves the gateway again. */
export interface SecretInfo {
  name: string
  kind: SecretKind
  allowedHosts: string[]
  updatedAt: Date
}

export interface SecretDeps {
  sql: Sql
  signals: Pick<Signals, 'accessChanged'>
  envelope: Envelope
}

/** Whose: an agent's, or the whole organization's. */
interface Owner {
  actor: Actor
  agentId: string | undefined
}

/** Names, kinds and times, in the order of kind and name; `after` continues behind `kind:name`. @throws AppError 'not_found' */
export async function listSecrets(
  sql: Sql,
  { actor, agentId, limit, after }: Owner & { limit: number; after?: string | undefined },
): Promise<SecretInfo[]> {
  requirePermission(actor, 'secrets:read')
  const { organizationId } = actor
  if (agentId !== undefined) await requireAgent(sql, { organizationId, agentId })
  return sql<SecretInfo[]>`
    select name, kind, allowed_hosts as "allowedHosts", updated_at as "updatedAt" from secrets
    where organization_id = ${organizationId} and agent_id = ${agentId ?? ''} and kind || ':' || name > ${after ?? ''}
    order by kind || ':' || name limit ${limit}`
}

/** Stores a secret, or another value for it. @throws AppError 'not_found', 'limit_reached' */
export async function setSecret(
  deps: SecretDeps,
  { actor, agentId, name, value, allowedHosts }: Owner & { name: string; value: string; allowedHosts: string[] },
): Promise<{ secret: SecretInfo; created: boolean }> {
  requirePermission(actor, 'secrets:write')
  const key = keyOf({ actor, agentId }, 'secret', name)
  const { created, updatedAt } = await writeSecret(deps, { actor, key, value, allowedHosts })
  return { secret: { name, kind: 'secret', allowedHosts, updatedAt }, created }
}

/** @throws AppError 'not_found' */
export async function removeSecret(
  deps: SecretDeps,
  { actor, agentId, name }: Owner & { name: string },
): Promise<void> {
  requirePermission(actor, 'secrets:write')
  await eraseSecret(deps, { actor, key: keyOf({ actor, agentId }, 'secret', name) })
}

export function keyOf({ actor, agentId }: Owner, kind: SecretKind, name: string): SecretKey {
  return { organizationId: actor.organizationId, agentId: agentId ?? '', kind, name }
}

/** The change, its entry in the audit log, and the word to all replicas. The caller has checked the permission. */
export async function writeSecret(
  { sql, envelope, signals }: SecretDeps,
  { actor, key, value, allowedHosts = [] }: { actor: Actor; key: SecretKey; value: string; allowedHosts?: string[] },
) {
  const written = await inTransaction(sql, async (tx) => {
    await requireAgent(tx, key, 'lock')
    const put = await putSecret(tx, envelope, { key, value, allowedHosts })
    const details = { ...detailsOf(key), ...(allowedHosts.length > 0 ? { allowedHosts } : {}) }
    const action = `${targetKind(key)}.${put.created ? 'created' : 'changed'}`
    await recordAudit(tx, actor, { action, targetKind: targetKind(key), targetId: key.name, details })
    return put
  })
  signals.accessChanged()
  return written
}

/** @throws AppError 'not_found' */
export async function eraseSecret(
  { sql, signals }: Omit<SecretDeps, 'envelope'>,
  { actor, key }: { actor: Actor; key: SecretKey },
): Promise<void> {
  await inTransaction(sql, async (tx) => {
    await requireAgent(tx, key)
    if (!(await dropSecret(tx, key))) throw new AppError('not_found', 'No such secret')
    const entry = { targetKind: targetKind(key), targetId: key.name, details: detailsOf(key) }
    await recordAudit(tx, actor, { action: `${targetKind(key)}.removed`, ...entry })
  })
  signals.accessChanged()
}

/** With `lock` the agent cannot be removed before the transaction ends. */
async function requireAgent(
  sql: Sql,
  { organizationId, agentId }: { organizationId: string; agentId: string },
  lock?: 'lock',
): Promise<void> {
  if (agentId === '') return
  const rows = await sql`
    select 1 from agents where organization_id = ${organizationId} and id = ${agentId} ${lock ? sql`for share` : sql``}`
  if (rows.length === 0) throw new AppError('not_found', 'No such agent')
}

function targetKind({ kind }: SecretKey): string {
  return kind === 'provider' ? 'provider_key' : 'secret'
}

function detailsOf({ agentId, kind }: SecretKey) {
  return { kind, ...(agentId === '' ? {} : { agentId }) }
}
