import { AsyncLocalStorage } from 'node:async_hooks'
import type { Sql } from '../../db/client.ts'
import { sha256 } from '../../lib/ids.ts'
import { findCookie } from '../accounts/browser-session.ts'
import { type BetterAuth, type BetterAuthDeps, type BetterAuthOptions, createBetterAuth } from './better-auth.ts'
import { createSignInHooks, INVITATION_COOKIE, maySignIn } from './hooks.ts'
import { findOpenInvitation, type OpenInvitation } from './invitation-permit.ts'
import { createOidcProvider } from './providers/oidc.ts'
import type { HttpCall, SignInProvider } from './providers/provider.ts'

/** A change of an organization's providers is rung to all replicas; this is the bound for one that missed the ring. */
const LOOK_MS = 10_000

export interface SignInDeps extends Pick<BetterAuthDeps, 'orm' | 'log' | 'mails'> {
  sql: Sql
  /** Sessions, ways to sign in or members have changed: rung to all replicas. */
  accessChanged(): void
  /** Resolves when such a change holds on every replica. */
  accessLost(): Promise<void>
  /** What the environment sets up. */
  providers: readonly SignInProvider[]
  /** Calls addresses that organizations chose. */
  callOutside: HttpCall
  /** The client secret of an organization's provider; null where it is missing or cannot be opened. */
  readClientSecret(organizationId: string, providerId: string): Promise<string | null>
}

export interface SignIn {
  /** Answers a request below `/api/auth`. */
  handle(request: Request): Promise<Response>
  /** better-auth as it is now; made at the first call, because it reads and writes the schema. */
  current(): Promise<BetterAuth>
  /** Providers that anybody may use, and those of this organization. */
  offers(organizationSlug: string | undefined): Promise<{ id: string; name: string }[]>
  /** The providers of organizations may have changed. */
  forget(): void
}

/** better-auth with the providers that the environment and the organizations set up; made anew when those change. */
export function createSignIn(deps: SignInDeps, options: BetterAuthOptions & { signUp: 'invited' | 'open' }): SignIn {
  let made: { auth: BetterAuth; fingerprint: string } | undefined
  let lookedAt = Number.NEGATIVE_INFINITY
  let looking: Promise<BetterAuth> | undefined
  /** The invitation that the request under way came with. */
  const held = new AsyncLocalStorage<OpenInvitation | null>()
  const heldInvitation = () => held.getStore() ?? null
  /** Changes so far. Of requests at the same time one may wait for another's; that costs it a moment and nothing else. */
  let changes = 0

  function accessChanged() {
    changes++
    deps.accessChanged()
  }

  async function look(): Promise<BetterAuth> {
    const startedAt = performance.now()
    const rows = await readOrganizationProviders(deps)
    const fingerprint = sha256(JSON.stringify(rows))
    lookedAt = startedAt
    if (made?.fingerprint === fingerprint) return made.auth
    const own = rows.map((row) => createOidcProvider({ call: deps.callOutside }, row))
    const providers = [...deps.providers, ...own]
    const rules = { sql: deps.sql, accessChanged, signUp: options.signUp, providers, heldInvitation }
    const mayWriteTo: BetterAuthDeps['mayWriteTo'] = (email, ctx) => maySignIn(rules, email, ctx ?? null)
    const auth = createBetterAuth({ ...deps, hooks: createSignInHooks(rules), providers, mayWriteTo }, options)
    made = { auth, fingerprint }
    return made.auth
  }

  function current(): Promise<BetterAuth> {
    if (made && performance.now() - lookedAt < LOOK_MS) return Promise.resolve(made.auth)
    looking ??= look().finally(() => {
      looking = undefined
    })
    return looking
  }

  return {
    current,
    async handle(request) {
      const auth = await current()
      const before = changes
      const token = findCookie(request.headers.get('cookie') ?? '', INVITATION_COOKIE)
      const invitation = token === undefined ? null : await findOpenInvitation(deps.sql, token)
      const response = await held.run(invitation, () => auth.handler(request))
      // Whoever has signed out, or changed a password, is right to think that it holds everywhere.
      if (changes !== before) await deps.accessLost()
      return response
    },
    async offers(organizationSlug) {
      const ofAll = deps.providers.map(({ id, name }) => ({ id, name }))
      if (organizationSlug === undefined) return ofAll
      const rows = await deps.sql<{ id: string; name: string }[]>`
        select s.provider_id as id, s.name from organization_sign_ins s
        join organizations o on o.id = s.organization_id where o.slug = ${organizationSlug} order by s.name`
      return [...ofAll, ...rows]
    },
    forget() {
      lookedAt = Number.NEGATIVE_INFINITY
    },
  }
}

type OrganizationProvider = Parameters<typeof createOidcProvider>[1]

/** A provider whose secret is missing is left out: it could not be used. */
async function readOrganizationProviders({ sql, readClientSecret }: SignInDeps): Promise<OrganizationProvider[]> {
  const rows = await sql<
    {
      organizationId: string
      id: string
      name: string
      issuer: string
      clientId: string
      role: 'admin' | 'member' | 'viewer'
    }[]
  >`
    select organization_id as "organizationId", provider_id as id, name, issuer, client_id as "clientId", role
    from organization_sign_ins order by provider_id`
  const found: OrganizationProvider[] = []
  for (const { role, ...row } of rows) {
    const clientSecret = await readClientSecret(row.organizationId, row.id)
    if (clientSecret === null) continue
    found.push({ ...row, clientSecret, joins: { organizationId: row.organizationId, role } })
  }
  return found
}
