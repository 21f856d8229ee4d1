import type { GenericEndpointContext } from '@better-auth/core'
import type { BetterAuthOptions as Options } from 'better-auth'
import { APIError, createAuthMiddleware } from 'better-auth/api'
import type { Sql } from '../../db/client.ts'
import { inTransaction } from '../../db/transaction.ts'
import type { Origin } from '../accounts/actor.ts'
import { ensureOrganization } from '../accounts/bootstrap.ts'
import { endProviderSessions, mayUseProviderOf } from '../accounts/provider-sessions.ts'
import { recordAudit } from '../audit/record.ts'
import type { OpenInvitation } from './invitation-permit.ts'
import type { SignInProvider } from './providers/provider.ts'

/** Holds the token of an invitation while its holder makes an account, whichever way that goes. */
export const INVITATION_COOKIE = 'lobu.invitation'
/** Set by ourselves on what we hand to better-auth; see `http/routes/sign-in.ts`. */
export const CLIENT_ADDRESS_HEADER = 'x-lobu-client-address'
export const REQUEST_ID_HEADER = 'x-lobu-request-id'

export interface SignInHookDeps {
  sql: Sql
  /** Sessions, passwords or members have changed. */
  accessChanged(): void
  signUp: 'invited' | 'open'
  providers: readonly SignInProvider[]
  /**
   * What the browser holds whose request is being answered. Looked up before, since better-auth makes people inside of a
   * transaction: to ask the database there, on another connection, could wait for ever.
   */
  heldInvitation(): OpenInvitation | null
}

const CALLBACK_PATH = '/callback/:id'

/**
 * What we add to better-auth's own doing. The rule of who may make an account stands where the row of the person is made,
 * so that no route, present or future, goes round it.
 */
export function createSignInHooks(deps: SignInHookDeps): Pick<Options, 'databaseHooks' | 'hooks'> {
  const { sql, accessChanged } = deps
  return {
    hooks: {
      before: createAuthMiddleware(async (ctx) => {
        // Asked before better-auth looks whether the address is known: strangers learn nothing about who is here.
        if (ctx.path === '/sign-up/email') requireLeave(deps, String(ctx.body?.email ?? ''), ctx)
        if (ctx.path !== '/change-password') return
        return { context: { body: { ...ctx.body, revokeOtherSessions: true } } }
      }),
    },
    databaseHooks: {
      user: {
        create: { before: async (user, ctx) => requireLeave(deps, user.email, ctx) },
      },
      account: {
        create: {
          // Providers are asked who somebody is and nothing else, so what they hand out is not kept.
          before: async (account) => ({ data: { ...account, accessToken: null, refreshToken: null, idToken: null } }),
          after: async (account) => join(deps, account),
        },
        update: { after: async () => accessChanged() },
        delete: { after: async () => accessChanged() },
      },
      session: {
        create: {
          before: async (session, ctx) => refuseForeign(deps, session, ctx),
          after: async (session, ctx) => noteSignIn(sql, session, ctx),
        },
        delete: { after: async () => accessChanged() },
      },
    },
  }
}

/** Whether somebody has an account, or may make one. */
export async function maySignIn(
  deps: SignInHookDeps,
  email: string,
  ctx: GenericEndpointContext | null,
): Promise<boolean> {
  const found = await deps.sql`select 1 from users where email = ${email.toLowerCase()}`
  if (found.length > 0) return true
  try {
    requireLeave(deps, email, ctx)
    return true
  } catch (error) {
    if (error instanceof APIError) return false
    throw error
  }
}

/** @throws APIError for somebody who may not make an account. */
function requireLeave(deps: SignInHookDeps, email: string, ctx: GenericEndpointContext | null): void {
  if (deps.signUp === 'open') return
  if (ctx?.path === CALLBACK_PATH && deps.providers.some(({ id, joins }) => joins && id === ctx.params?.id)) return
  const invitation = deps.heldInvitation()
  if (invitation && (invitation.email === null || invitation.email === email.toLowerCase())) return
  throw new APIError('FORBIDDEN', {
    code: 'SIGN_UP_BY_INVITATION',
    message: invitation
      ? `This invitation is for ${invitation.email}`
      : 'Accounts are made by invitation here: open the link that you were sent',
  })
}

/** @throws APIError for somebody for whom an organization's own provider may not speak. */
async function refuseForeign(
  { sql, providers }: SignInHookDeps,
  { userId }: { userId: string },
  ctx: GenericEndpointContext | null,
): Promise<void> {
  if (ctx?.path !== CALLBACK_PATH) return
  const organizationId = providers.find(({ id }) => id === ctx.params?.id)?.organizationId
  if (organizationId === undefined || (await mayUseProviderOf(sql, { organizationId, userId }))) return
  throw new APIError('FORBIDDEN', {
    code: 'PROVIDER_OF_ONE_ORGANIZATION',
    message: 'This provider is for people of one organization only, and not for owners: sign in another way',
  })
}

/** A new identity at a provider that an organization, or the operator, lets in makes its owner a member. */
async function join(deps: SignInHookDeps, account: { userId: string; providerId: string }): Promise<void> {
  const joins = deps.providers.find(({ id }) => id === account.providerId)?.joins
  if (!joins) return
  const joined = await inTransaction(deps.sql, async (tx) => {
    const organizationId = joins.organizationId ?? (await ensureOrganization(tx))
    const rows = await tx`
      insert into members (organization_id, user_id, role) values (${organizationId}, ${account.userId}, ${joins.role})
      on conflict do nothing returning 1`
    if (rows.length === 0) return false
    await endProviderSessions(tx, { userId: account.userId })
    const actor = { kind: 'user' as const, credentialId: account.providerId, organizationId, userId: account.userId }
    await recordAudit(tx, actor, {
      ...{ action: 'member.joined', targetKind: 'member', targetId: account.userId },
      details: { provider: account.providerId, role: joins.role },
    })
    return true
  })
  if (joined) deps.accessChanged()
}

/** Each organization of the person sees that they signed in. */
async function noteSignIn(
  sql: Sql,
  session: { id: string; userId: string },
  ctx: GenericEndpointContext | null,
): Promise<void> {
  const memberships = await sql<{ organizationId: string }[]>`
    select organization_id as "organizationId" from members where user_id = ${session.userId}`
  if (memberships.length === 0) return
  const origin = originOf(ctx)
  await inTransaction(sql, async (tx) => {
    for (const { organizationId } of memberships) {
      const actor = { kind: 'user' as const, credentialId: session.id, organizationId, userId: session.userId, origin }
      const method = ctx?.path === CALLBACK_PATH ? String(ctx.params?.id) : (ctx?.path ?? '')
      await recordAudit(tx, actor, {
        ...{ action: 'sign_in.succeeded', targetKind: 'user', targetId: session.userId },
        details: { method },
      })
    }
  })
}

function originOf(ctx: GenericEndpointContext | null): Origin {
  return {
    ip: ctx?.headers?.get(CLIENT_ADDRESS_HEADER) ?? null,
    userAgent: ctx?.headers?.get('user-agent') ?? null,
    requestId: ctx?.headers?.get(REQUEST_ID_HEADER) ?? '',
  }
}
