import type { BetterAuthPlugin, GenericEndpointContext } from '@better-auth/core'
import { oauthDeviceAuthorization, oauthProvider } from '@better-auth/oauth-provider'
import { passkey } from '@better-auth/passkey'
import { betterAuth } from 'better-auth'
import { drizzleAdapter } from 'better-auth/adapters/drizzle'
import { APIError } from 'better-auth/api'
import { jwt, magicLink } from 'better-auth/plugins'
import type { Orm } from '../../db/client.ts'
import * as tables from '../../db/tables.ts'
import { errorLine } from '../../lib/errors.ts'
import { sha256 } from '../../lib/ids.ts'
import type { Logger } from '../../lib/logger.ts'
import { ACCESS_TOKEN_PREFIX, REFRESH_TOKEN_PREFIX } from '../accounts/access-token.ts'
import { OAUTH_SCOPES } from '../accounts/scopes.ts'
import { CLIENT_ADDRESS_HEADER, type createSignInHooks } from './hooks.ts'
import type { AccountMails } from './mails.ts'
import type { SignInProvider } from './providers/provider.ts'
import { secondFactor } from './second-factor.ts'

/** Our tables under better-auth's names for them. */
const SCHEMA = {
  user: tables.users,
  session: tables.userSessions,
  account: tables.userAccounts,
  verification: tables.verifications,
  twoFactor: tables.twoFactors,
  passkey: tables.passkeys,
  rateLimit: tables.signInRateLimits,
  jwks: tables.signingKeys,
  deviceCode: tables.deviceCodes,
  oauthClient: tables.oauthClients,
  oauthResource: tables.oauthResources,
  oauthClientResource: tables.oauthClientResources,
  oauthRefreshToken: tables.oauthRefreshTokens,
  oauthAccessToken: tables.oauthAccessTokens,
  oauthConsent: tables.oauthConsents,
  oauthClientAssertion: tables.oauthClientAssertions,
}

/** Below it the routes of better-auth are mounted. */
export const SIGN_IN_PATH = '/api/auth'
export const COOKIE_PREFIX = 'lobu'
/** How long a browser stays signed in without being used, and how often its use is noted. */
const SESSION_SECONDS = 30 * 86_400
const SESSION_NOTE_SECONDS = 86_400
export const PASSWORD_CHARS_MIN = 10
export const PASSWORD_CHARS_MAX = 128
const RESET_SECONDS = 3600
const MAGIC_LINK_SECONDS = 900
/** Tries of one address at one path and in ten seconds, over all replicas. */
const RATE = { window: 10, max: 100 }

const ACCESS_SECONDS = 3_600
const REFRESH_SECONDS = 30 * 86_400
/**
 * Several processes of one client refresh at the same moment: for so long each gets what the first one got. After that an
 * old refresh token is a stolen one, and everything the person gave that client ends.
 */
const ROTATION_SECONDS = 10
/** Of one address. A person's device asks every five seconds whether it was approved, and offices share an address. */
const OAUTH_RATES = {
  token: { window: 60, max: 300 },
  authorize: { window: 60, max: 60 },
  revoke: false,
  register: { window: 60, max: 20 },
  introspect: false,
  userinfo: false,
} as const
/**
 * Routes of the plugins that nobody needs, or that go past what our own do besides: taking a consent back must take its
 * tokens, a device code must not become a browser session, a code may be guessed only so often.
 */
const CLOSED_PATHS = [
  ...['/token', '/device', '/device/approve', '/device/deny', '/device/token'],
  ...['/oauth2/introspect', '/oauth2/revoke', '/oauth2/end-session', '/oauth2/userinfo', '/oauth2/continue'],
  ...['/oauth2/delete-consent', '/oauth2/update-consent', '/oauth2/get-consent', '/oauth2/get-consents'],
]

export interface BetterAuthOptions {
  /** Origin of all links, redirect URIs and cookies. */
  publicUrl: string
  secret: string
  /** Other origins whose pages may use the routes with a person's cookie, and may be returned to. */
  trustedOrigins?: readonly string[]
  /** Whether an address must be confirmed before it can sign in. Takes mail. */
  requireVerifiedEmail?: boolean
}

export interface BetterAuthDeps {
  orm: Orm
  log?: Logger
  hooks?: ReturnType<typeof createSignInHooks>
  providers?: readonly SignInProvider[]
  /** Null: what needs mail is off. */
  mails?: AccountMails | null
  /** Whether a link to sign in would be of use to whoever has this address. */
  mayWriteTo?(email: string, ctx: GenericEndpointContext | undefined): Promise<boolean>
}

/**
 * better-auth on our tables: people, their sessions and ways to sign in, and the OAuth 2.1 server for programs.
 * Organizations, members and API keys are not its business: see `domain/organizations` and `domain/accounts`.
 * https://www.better-auth.com/docs
 */
export function createBetterAuth(deps: BetterAuthDeps, options: BetterAuthOptions) {
  const { orm, hooks = {}, providers = [], mails = null, log, mayWriteTo } = deps
  const { publicUrl, secret, trustedOrigins = [], requireVerifiedEmail = false } = options
  const { origin, hostname } = new URL(publicUrl)
  return betterAuth({
    appName: 'Lobu',
    // With a path of its own better-auth would leave out `basePath`.
    baseURL: `${publicUrl}${SIGN_IN_PATH}`,
    basePath: SIGN_IN_PATH,
    secret,
    database: drizzleAdapter(orm, { provider: 'pg', schema: SCHEMA, transaction: true }),
    trustedOrigins: [origin, ...trustedOrigins],
    telemetry: { enabled: false },
    ...hooks,
    emailAndPassword: {
      enabled: true,
      minPasswordLength: PASSWORD_CHARS_MIN,
      maxPasswordLength: PASSWORD_CHARS_MAX,
      requireEmailVerification: requireVerifiedEmail,
      revokeSessionsOnPasswordReset: true,
      resetPasswordTokenExpiresIn: RESET_SECONDS,
      ...(mails && {
        sendResetPassword: async ({ user, token }) =>
          mails.resetPassword(user.email, `${publicUrl}/reset#token=${token}`),
      }),
    },
    ...(mails && {
      emailVerification: {
        sendOnSignUp: true,
        sendVerificationEmail: async ({ user, url }) => mails.verify(user.email, url),
      },
    }),
    account: {
      encryptOAuthTokens: true,
      updateAccountOnSignIn: false,
      // Whoever runs a provider can write any address into it: an identity is added to an account by its owner alone.
      accountLinking: { enabled: true, disableImplicitLinking: true },
    },
    verification: { storeIdentifier: 'hashed' },
    // What is no refusal is thrown to us; it would print the failed statement with its parameters.
    onAPIError: { errorURL: `${publicUrl}/sign-in`, throw: true },
    disabledPaths: ['/error', ...CLOSED_PATHS],
    logger: { level: 'warn', log: (level, message, ...args) => writeLog(log, level, [message, ...args]) },
    session: { expiresIn: SESSION_SECONDS, updateAge: SESSION_NOTE_SECONDS },
    rateLimit: { enabled: true, storage: 'database', ...RATE },
    advanced: {
      cookiePrefix: COOKIE_PREFIX,
      useSecureCookies: publicUrl.startsWith('https:'),
      ipAddress: { ipAddressHeaders: [CLIENT_ADDRESS_HEADER] },
      // Both are off by themselves where NODE_ENV is `test`.
      disableOriginCheck: false,
      disableCSRFCheck: false,
    },
    plugins: [
      ...secondFactor(publicUrl),
      passkey({ rpName: 'Lobu', rpID: hostname, origin: [origin, ...trustedOrigins] }),
      offerProviders(providers, log),
      ...(mails
        ? [
            magicLink({
              expiresIn: MAGIC_LINK_SECONDS,
              storeToken: 'hashed',
              // Opened by a person, not by the scanner of a mailbox: the page asks before it uses the link up.
              sendMagicLink: async ({ email, token }, ctx) => {
                if (mayWriteTo && !(await mayWriteTo(email, ctx))) return
                mails.signIn(email, `${publicUrl}/sign-in#link=${token}`)
              },
            }),
          ]
        : []),
      ...oauthPlugins(publicUrl),
    ],
  })
}

/**
 * The OAuth 2.1 server. `oauth-server.ts` stands before its routes and says what they must be asked; the words of people
 * on the pages come from there too. All clients are public, so all of them prove themselves by PKCE alone.
 */
function oauthPlugins(publicUrl: string) {
  return [
    // Signs ID tokens. Its own tokens for a session are closed below.
    jwt({ disableSettingJwtHeader: true, jwt: { issuer: publicUrl } }),
    oauthDeviceAuthorization({ verificationUri: `${publicUrl}/device`, expiresIn: '10m', interval: '5s' }),
    oauthProvider({
      loginPage: '/sign-in',
      consentPage: '/consent',
      scopes: OAUTH_SCOPES,
      grantTypes: ['authorization_code', 'refresh_token'],
      allowDynamicClientRegistration: true,
      allowUnauthenticatedClientRegistration: true,
      accessTokenExpiresIn: ACCESS_SECONDS,
      refreshTokenExpiresIn: REFRESH_SECONDS,
      refreshTokenReuseInterval: ROTATION_SECONDS,
      // Access tokens are looked up, not verified: one that was taken back is refused at once, everywhere.
      prefix: { opaqueAccessToken: ACCESS_TOKEN_PREFIX, refreshToken: REFRESH_TOKEN_PREFIX },
      storeTokens: { hash: async (token: string) => sha256(token) },
      clientPrivileges: () => false,
      resourcePrivileges: () => false,
      rateLimit: OAUTH_RATES,
    }),
  ] as const
}

/** Adds the providers to those of better-auth, whose own know no other address than their makers'. */
function offerProviders(providers: readonly SignInProvider[], log: Logger | undefined): BetterAuthPlugin {
  return {
    id: 'lobu-providers',
    init: (ctx) => ({
      context: { socialProviders: [...providers.map((one) => guard(one, log)), ...ctx.socialProviders] },
    }),
  }
}

/** What fails at a provider is a line in the log and a sentence for the person, not an error of ours. */
function guard({ oauth }: SignInProvider, log: Logger | undefined): SignInProvider['oauth'] {
  const warn = (error: unknown) => log?.warn({ provider: oauth.id, err: errorLine(error) }, 'sign-in provider failed')
  return {
    ...oauth,
    async createAuthorizationURL(data) {
      try {
        return await oauth.createAuthorizationURL(data)
      } catch (error) {
        warn(error)
        const message = `${oauth.name} cannot be reached at present; try again, or sign in another way`
        throw new APIError('SERVICE_UNAVAILABLE', { code: 'PROVIDER_UNAVAILABLE', message })
      }
    },
    validateAuthorizationCode: (data) =>
      oauth.validateAuthorizationCode(data).catch((error: unknown) => {
        warn(error)
        return null
      }),
    getUserInfo: (tokens) =>
      oauth.getUserInfo(tokens).catch((error: unknown) => {
        warn(error)
        return null
      }),
  }
}

/** Its messages are sentences; what comes with them may be an address, a token or a row, and is left out. */
function writeLog(log: Logger | undefined, level: string, parts: unknown[]): void {
  const [message, detail] = parts
  const line = { part: 'better-auth', ...(detail instanceof Error ? { err: errorLine(detail) } : {}) }
  const text = String(message).split('\n')[0]!.slice(0, 200)
  // A refused sign-in is an everyday thing there, not one that wants a person.
  if (level === 'error' && detail instanceof Error) log?.error(line, text)
  else log?.info(line, text)
}

export type BetterAuth = ReturnType<typeof createBetterAuth>
