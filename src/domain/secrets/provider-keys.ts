import type { Sql } from '../../db/client.ts'
import type { Envelope } from '../../lib/envelope.ts'
import { AppError } from '../../lib/errors.ts'
import { createRecall } from '../../lib/recall.ts'
import type { Redactions } from '../../lib/redactions.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import { eraseSecret, keyOf, type SecretDeps, writeSecret } from './secrets.ts'
import { readSecrets } from './store.ts'

export interface ProviderKeyDeps extends SecretDeps {
  /** Providers of models that a key can be given for. */
  providers: readonly string[]
}

interface Owner {
  actor: Actor
  agentId: string | undefined
  provider: string
}

/** Stores the key with which an agent, or the whole organization, calls a provider. @throws AppError */
export async function setProviderKey(
  deps: ProviderKeyDeps,
  { actor, agentId, provider, value }: Owner & { value: string },
): Promise<{ updatedAt: Date; created: boolean }> {
  requirePermission(actor, 'secrets:write')
  requireProvider(deps, provider)
  return writeSecret(deps, { actor, key: keyOf({ actor, agentId }, 'provider', provider), value })
}

/** @throws AppError 'not_found' */
export async function removeProviderKey(deps: ProviderKeyDeps, { actor, agentId, provider }: Owner): Promise<void> {
  requirePermission(actor, 'secrets:write')
  requireProvider(deps, provider)
  await eraseSecret(deps, { actor, key: keyOf({ actor, agentId }, 'provider', provider) })
}

/** Every provider that takes a key, and since when the organization has one of its own for it. */
export async function listProviderKeys(
  { sql, providers }: Pick<ProviderKeyDeps, 'sql' | 'providers'>,
  { actor }: { actor: Actor },
): Promise<{ provider: string; updatedAt: Date | null }[]> {
  requirePermission(actor, 'secrets:read')
  const rows = await sql<{ provider: string; updatedAt: Date }[]>`
    select name as provider, updated_at as "updatedAt" from secrets
    where organization_id = ${actor.organizationId} and agent_id = '' and kind = 'provider'`
  return providers.map((provider) => ({
    provider,
    updatedAt: rows.find((row) => row.provider === provider)?.updatedAt ?? null,
  }))
}

function requireProvider({ providers }: Pick<ProviderKeyDeps, 'providers'>, provider: string) {
  if (providers.includes(provider)) return
  throw new AppError('not_found', `No such provider. Keys can be given for ${providers.join(', ')}`)
}

/** Whose keys a call may use. */
export interface KeyOwner {
  organizationId: string
  agentId: string
}

/** The keys that organizations and agents have of their own, as the gateway uses them. */
export interface ProviderKeys {
  /**
   * The agent's own key, else the organization's; undefined when they have none and the environment's counts.
   * @throws AppError 'model_unavailable' for a stored key that cannot be opened: another one is never used in its place.
   */
  find(owner: KeyOwner, provider: string): Promise<string | undefined>
  /** The providers that the agent or its organization has a key for. */
  providersOf(owner: KeyOwner): Promise<ReadonlySet<string>>
  /** Keys have changed: nothing that was known counts any more. */
  forget(): void
}

/** Each change is rung to all replicas, which then forget. This is the bound for a replica that missed the ring. */
const CACHE_MS = 5_000
const CACHE_MAX = 2_000

/** By provider; null for a key that cannot be opened. */
type Keys = Map<string, string | null>

export function createProviderKeys({
  scope,
  envelope,
  redactions,
}: {
  /** The database as one organization sees it. */
  scope(organizationId: string): Sql
  envelope: Envelope
  redactions: Redactions
}): ProviderKeys {
  const known = createRecall<Keys>({ max: CACHE_MAX, ttlMs: CACHE_MS })

  async function keysOf(owner: KeyOwner): Promise<Keys> {
    return (await known.get(`${owner.organizationId}/${owner.agentId}`, () => readKeys(owner)))!
  }

  async function readKeys({ organizationId, agentId }: KeyOwner): Promise<Keys> {
    const keys: Keys = new Map()
    const rows = await readSecrets(scope(organizationId), envelope, {
      ...{ organizationId, agentId, kind: 'provider', names: null },
    })
    // The agent's own come last, and so win.
    for (const { name, value } of rows.sort((a, b) => a.agentId.length - b.agentId.length)) {
      if (value !== undefined) redactions.add(value)
      keys.set(name, value ?? null)
    }
    return keys
  }

  return {
    async find(owner, provider) {
      const key = (await keysOf(owner)).get(provider)
      if (key !== null) return key
      throw new AppError('model_unavailable', `The stored key for ${provider} cannot be opened; set it again.`)
    },
    providersOf: async (owner) => new Set((await keysOf(owner)).keys()),
    forget: known.forget,
  }
}
