import { oauthProvider } from '@better-auth/oauth-provider'
import { passkey } from '@better-auth/passkey'
import { betterAuth } from 'better-auth'
import { drizzleAdapter } from 'better-auth/adapters/drizzle'
import { deviceAuthorization, jwt, twoFactor } from 'better-auth/plugins'
import type { Orm } from '../../db/client.ts'
import * as tables from '../../db/tables.ts'

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
const PASSWORD_CHARS_MIN = 10

export interface BetterAuthOptions {
  /** Origin of all links, redirect URIs and cookies. */
  publicUrl: string
  secret: string
}

/**
 * better-auth on our tables: people, their sessions and ways to sign in, and the OAuth 2.1 server for programs.
 * Organizations, members and API keys are not its business: see `domain/organizations` and `domain/accounts`.
 * https://www.better-auth.com/docs
 */
export function createBetterAuth({ orm }: { orm: Orm }, options: BetterAuthOptions) {
  const { publicUrl, secret } = options
  return betterAuth({
    appName: 'Lobu',
    baseURL: publicUrl,
    basePath: SIGN_IN_PATH,
    secret,
    database: drizzleAdapter(orm, { provider: 'pg', schema: SCHEMA, transaction: true }),
    trustedOrigins: [publicUrl],
    telemetry: { enabled: false },
    emailAndPassword: { enabled: true, minPasswordLength: PASSWORD_CHARS_MIN },
    account: { encryptOAuthTokens: true },
    session: { expiresIn: SESSION_SECONDS, updateAge: SESSION_NOTE_SECONDS },
    rateLimit: { enabled: true, storage: 'database' },
    advanced: { cookiePrefix: COOKIE_PREFIX, useSecureCookies: publicUrl.startsWith('https:') },
    plugins: [
      twoFactor({ issuer: 'Lobu' }),
      passkey({ rpName: 'Lobu', rpID: new URL(publicUrl).hostname, origin: publicUrl }),
      jwt({ disableSettingJwtHeader: true }),
      deviceAuthorization({ verificationUri: `${publicUrl}/device` }),
      oauthProvider({
        loginPage: '/sign-in',
        consentPage: '/consent',
        scopes: ['openid', 'profile', 'email', 'offline_access'],
      }),
    ],
  })
}

export type BetterAuth = ReturnType<typeof createBetterAuth>
