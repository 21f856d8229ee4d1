import type { Sql } from '../../db/client.ts'
import type { Origin } from '../accounts/actor.ts'
import { CLIENT_ADDRESS_HEADER, REQUEST_ID_HEADER } from './hooks.ts'
import { createGithubProvider, type GithubOptions } from './providers/github.ts'
import { createOidcProvider } from './providers/oidc.ts'
import type { HttpCall, SignInProvider } from './providers/provider.ts'
import { completeSetup } from './setup.ts'
import type { SignIn } from './sign-in.ts'

interface Client {
  clientId: string
  clientSecret: string
}

export interface EnvironmentProviders {
  google: (Client & { issuer: string }) | null
  github: GithubOptions | null
  oidc: (Client & { issuer: string; name: string; role: 'admin' | 'member' | 'viewer' | null }) | null
}

/** The providers that the operator set up. Google is an ordinary OpenID Connect provider. */
export function createEnvironmentProviders(
  deps: { call: HttpCall },
  { google, github, oidc }: EnvironmentProviders,
): SignInProvider[] {
  const providers: SignInProvider[] = []
  if (google) providers.push(createOidcProvider(deps, { id: 'google', name: 'Google', ...google }))
  if (github) providers.push(createGithubProvider(deps, github))
  if (oidc) {
    const { role, ...settings } = oidc
    const joins = role === null ? undefined : { organizationId: null, role }
    providers.push(createOidcProvider(deps, { id: 'oidc', ...settings, joins }))
  }
  return providers
}

export interface SetUpArgs {
  token: string
  name: string
  email: string
  password: string
  origin: Origin
}

/**
 * Makes the owner of a fresh install and signs them in. Resolves with the cookies of their session.
 * @throws AppError as `completeSetup` does.
 */
export async function setUpOwner(deps: { sql: Sql; signIn: SignIn }, args: SetUpArgs): Promise<string[]> {
  const { token, name, email, password, origin } = args
  const auth = await deps.signIn.current()
  const passwordHash = await (await auth.$context).password.hash(password)
  await completeSetup(deps.sql, { token, person: { name, email, passwordHash }, origin })
  // With no cookies of somebody who is signed in here already.
  const own = new Headers({
    'user-agent': origin.userAgent ?? '',
    [REQUEST_ID_HEADER]: origin.requestId,
    ...(origin.ip === null ? {} : { [CLIENT_ADDRESS_HEADER]: origin.ip }),
  })
  const response = await auth.api.signInEmail({ body: { email, password }, headers: own, asResponse: true })
  return response.headers.getSetCookie()
}
