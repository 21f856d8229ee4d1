import { randomBytes } from 'node:crypto'
import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import type { Envelope } from '../../lib/envelope.ts'
import { AppError } from '../../lib/errors.ts'
import { type Actor, requirePermission } from '../accounts/actor.ts'
import type { Role } from '../accounts/permissions.ts'
import { recordAudit } from '../audit/record.ts'
import { dropSecret, putSecret, type SecretKey } from '../secrets/store.ts'
import type { Signals } from '../signals.ts'
import { requireGrantable } from './grant.ts'
import { lockOrganization } from './lock.ts'

export interface SignInProviderFields {
  /** On the button of the sign-in page. */
  name: string
  /** Where `/.well-known/openid-configuration` is, without that path. */
  issuer: string
  clientId: string
  /** People who come from there for the first time become members with this role. */
  role: Exclude<Role, 'owner'>
}

export interface OwnSignInProvider extends SignInProviderFields {
  providerId: string
  createdAt: Date
}

/** Providers of one organization; the sign-in page has a button for each. */
export const SIGN_IN_PROVIDERS_MAX = 5

export interface SignInProviderDeps {
  sql: Sql
  signals: Signals
  envelope: Envelope
  /** @throws AppError 'invalid_request' for an issuer that may not be called. */
  checkIssuer(url: string): void
}

/** Where else people of the caller's organization can sign in. Secrets are not among it. */
export async function listSignInProviders(sql: Sql, { actor }: { actor: Actor }): Promise<OwnSignInProvider[]> {
  requirePermission(actor, 'organization:write')
  return sql<OwnSignInProvider[]>`
    select provider_id as "providerId", name, issuer, client_id as "clientId", role, created_at as "createdAt"
    from organization_sign_ins where organization_id = ${actor.organizationId} order by created_at, provider_id`
}

/**
 * Adds an OpenID Connect provider. Its id is ours to give, since it is part of the callback and so unique everywhere.
 * @throws AppError 'invalid_request', 'limit_reached' when there are enough, 'forbidden' for a role that is more than the caller's credential may do.
 */
export async function addSignInProvider(
  deps: SignInProviderDeps,
  { actor, fields, clientSecret }: { actor: Actor; fields: SignInProviderFields; clientSecret: string },
): Promise<OwnSignInProvider> {
  requirePermission(actor, 'organization:write')
  requireGrantable(actor, fields.role)
  deps.checkIssuer(fields.issuer)
  const { organizationId } = actor
  const providerId = `oidc-${randomBytes(9).toString('hex')}`
  const added = await inTransaction(deps.sql, async (tx) => {
    await lockOrganization(tx, organizationId)
    const [held] = await tx<{ count: number }[]>`
      select count(*)::int as count from organization_sign_ins where organization_id = ${organizationId}`
    if (held!.count >= SIGN_IN_PROVIDERS_MAX) {
      throw new AppError('limit_reached', `An organization can have ${SIGN_IN_PROVIDERS_MAX} sign-in providers`)
    }
    const [row] = await tx<OwnSignInProvider[]>`
      insert into organization_sign_ins (organization_id, provider_id, name, issuer, client_id, role)
      values (${organizationId}, ${providerId}, ${fields.name}, ${fields.issuer}, ${fields.clientId}, ${fields.role})
      returning provider_id as "providerId", name, issuer, client_id as "clientId", role, created_at as "createdAt"`
    await putSecret(tx, deps.envelope, { key: secretKey(organizationId, providerId), value: clientSecret })
    await recordAudit(tx, actor, {
      ...{
        action: 'sign_in_provider.added',
        targetKind: 'sign_in_provider',
        targetId: providerId,
        details: { ...fields },
      },
    })
    return row!
  })
  deps.signals.accessChanged()
  return added
}

/** Takes it away; who is signed in stays so. @throws AppError 'not_found' */
export async function removeSignInProvider(
  deps: Pick<SignInProviderDeps, 'sql' | 'signals'>,
  { actor, providerId }: { actor: Actor; providerId: string },
): Promise<void> {
  requirePermission(actor, 'organization:write')
  const { organizationId } = actor
  await inTransaction(deps.sql, async (tx) => {
    const removed = await tx`
      delete from organization_sign_ins where organization_id = ${organizationId} and provider_id = ${providerId}
      returning 1`
    if (removed.length === 0) throw new AppError('not_found', 'No such sign-in provider')
    await dropSecret(tx, secretKey(organizationId, providerId))
    await recordAudit(tx, actor, {
      ...{ action: 'sign_in_provider.removed', targetKind: 'sign_in_provider', targetId: providerId },
    })
  })
  deps.signals.accessChanged()
}

function secretKey(organizationId: string, providerId: string): SecretKey {
  return { organizationId, agentId: '', kind: 'oidc', name: providerId }
}
