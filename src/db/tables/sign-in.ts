/**
 * How people prove who they are, and what they allow to programs. better-auth writes these tables; its adapter finds
 * columns by the property names here, so those are its own words.
 */
import { boolean, foreignKey, index, integer, jsonb, pgTable, text } from 'drizzle-orm/pg-core'
import { users } from './accounts.ts'
import { at, int8 } from './columns.ts'

const id = () => text('id').primaryKey()
const userId = () => text('user_id').references(() => users.id, { onDelete: 'cascade' })
const clientId = () =>
  text('client_id')
    .notNull()
    .references(() => oauthClients.clientId, { onDelete: 'cascade' })
const sessionId = () => text('session_id').references(() => userSessions.id, { onDelete: 'set null' })

export const userSessions = pgTable(
  'user_sessions',
  {
    id: id(),
    token: text('token').notNull().unique('user_sessions_token_key'),
    userId: userId().notNull(),
    expiresAt: at('expires_at').notNull(),
    ipAddress: text('ip_address'),
    userAgent: text('user_agent'),
    createdAt: at('created_at').notNull().defaultNow(),
    updatedAt: at('updated_at').notNull().defaultNow(),
  },
  (t) => [index('user_sessions_user_idx').on(t.userId), index('user_sessions_expiry_idx').on(t.expiresAt)],
)

/** A way of one person to sign in: a password (hashed by better-auth), or an identity at a provider (tokens sealed by it). */
export const userAccounts = pgTable(
  'user_accounts',
  {
    id: id(),
    accountId: text('account_id').notNull(),
    providerId: text('provider_id').notNull(),
    userId: userId().notNull(),
    accessToken: text('access_token'),
    refreshToken: text('refresh_token'),
    idToken: text('id_token'),
    accessTokenExpiresAt: at('access_token_expires_at'),
    refreshTokenExpiresAt: at('refresh_token_expires_at'),
    scope: text('scope'),
    password: text('password'),
    createdAt: at('created_at').notNull().defaultNow(),
    updatedAt: at('updated_at').notNull().defaultNow(),
  },
  (t) => [index('user_accounts_user_idx').on(t.userId)],
)

export const verifications = pgTable(
  'verifications',
  {
    id: id(),
    identifier: text('identifier').notNull(),
    value: text('value').notNull(),
    expiresAt: at('expires_at').notNull(),
    createdAt: at('created_at').notNull().defaultNow(),
    updatedAt: at('updated_at').notNull().defaultNow(),
  },
  (t) => [index('verifications_identifier_idx').on(t.identifier), index('verifications_expiry_idx').on(t.expiresAt)],
)

/** Secret and codes are sealed by better-auth. */
export const twoFactors = pgTable(
  'two_factors',
  {
    id: id(),
    secret: text('secret').notNull(),
    backupCodes: text('backup_codes').notNull(),
    userId: userId().notNull(),
    verified: boolean('verified').default(true),
    failedVerificationCount: integer('failed_verification_count').default(0),
    lockedUntil: at('locked_until'),
  },
  (t) => [index('two_factors_user_idx').on(t.userId)],
)

export const passkeys = pgTable(
  'passkeys',
  {
    id: id(),
    name: text('name'),
    publicKey: text('public_key').notNull(),
    userId: userId().notNull(),
    credentialID: text('credential_id').notNull(),
    counter: integer('counter').notNull(),
    deviceType: text('device_type').notNull(),
    backedUp: boolean('backed_up').notNull(),
    transports: text('transports'),
    createdAt: at('created_at').defaultNow(),
    aaguid: text('aaguid'),
  },
  (t) => [index('passkeys_user_idx').on(t.userId), index('passkeys_credential_idx').on(t.credentialID)],
)

/** Counts of better-auth's own routes; shared, so that a limit stays what it is with any number of replicas. */
export const signInRateLimits = pgTable(
  'sign_in_rate_limits',
  {
    id: id(),
    key: text('key').notNull().unique('sign_in_rate_limits_key_key'),
    count: integer('count').notNull(),
    lastRequest: int8('last_request').notNull(),
  },
  (t) => [index('sign_in_rate_limits_last_idx').on(t.lastRequest)],
)

/** Keys that sign OAuth tokens; the private half is sealed by better-auth. */
export const signingKeys = pgTable('signing_keys', {
  id: id(),
  publicKey: text('public_key').notNull(),
  privateKey: text('private_key').notNull(),
  createdAt: at('created_at').notNull(),
  expiresAt: at('expires_at'),
  alg: text('alg'),
  crv: text('crv'),
})

export const deviceCodes = pgTable(
  'device_codes',
  {
    id: id(),
    deviceCode: text('device_code').notNull().unique('device_codes_device_code_key'),
    userCode: text('user_code').notNull(),
    userId: userId(),
    expiresAt: at('expires_at').notNull(),
    status: text('status').notNull(),
    lastPolledAt: at('last_polled_at'),
    pollingInterval: integer('polling_interval'),
    clientId: text('client_id'),
    /** The same client, once it is known to be registered; only such a code can become an OAuth token. */
    oauthClientId: text('oauth_client_id'),
    resources: text('resources').array(),
    scope: text('scope'),
  },
  (t) => [index('device_codes_user_code_idx').on(t.userCode), index('device_codes_expiry_idx').on(t.expiresAt)],
)

/** Programs that people let in. `clientSecret` is hashed by better-auth. */
export const oauthClients = pgTable(
  'oauth_clients',
  {
    id: id(),
    clientId: text('client_id').notNull().unique('oauth_clients_client_id_key'),
    clientSecret: text('client_secret'),
    clientDiscoveryId: text('client_discovery_id'),
    disabled: boolean('disabled').default(false),
    skipConsent: boolean('skip_consent'),
    enableEndSession: boolean('enable_end_session'),
    subjectType: text('subject_type'),
    scopes: text('scopes').array(),
    clientCredentialsScopes: text('client_credentials_scopes').array(),
    userId: userId(),
    name: text('name'),
    uri: text('uri'),
    icon: text('icon'),
    contacts: text('contacts').array(),
    tos: text('tos'),
    policy: text('policy'),
    softwareId: text('software_id'),
    softwareVersion: text('software_version'),
    softwareStatement: text('software_statement'),
    redirectUris: text('redirect_uris').array().notNull(),
    postLogoutRedirectUris: text('post_logout_redirect_uris').array(),
    backchannelLogoutUri: text('backchannel_logout_uri'),
    backchannelLogoutSessionRequired: boolean('backchannel_logout_session_required'),
    tokenEndpointAuthMethod: text('token_endpoint_auth_method'),
    applicationType: text('application_type'),
    jwks: text('jwks'),
    jwksUri: text('jwks_uri'),
    grantTypes: text('grant_types').array(),
    responseTypes: text('response_types').array(),
    requirePKCE: boolean('require_pkce'),
    dpopBoundAccessTokens: boolean('dpop_bound_access_tokens').default(false),
    referenceId: text('reference_id'),
    metadata: jsonb('metadata'),
    createdAt: at('created_at').defaultNow(),
    updatedAt: at('updated_at').defaultNow(),
  },
  (t) => [index('oauth_clients_user_idx').on(t.userId)],
)

export const oauthResources = pgTable('oauth_resources', {
  id: id(),
  identifier: text('identifier').notNull().unique('oauth_resources_identifier_key'),
  name: text('name').notNull(),
  accessTokenTtl: integer('access_token_ttl'),
  refreshTokenTtl: integer('refresh_token_ttl'),
  signingAlgorithm: text('signing_algorithm'),
  signingKeyId: text('signing_key_id'),
  allowedScopes: text('allowed_scopes').array(),
  customClaims: jsonb('custom_claims'),
  dpopBoundAccessTokensRequired: boolean('dpop_bound_access_tokens_required').default(false),
  disabled: boolean('disabled').default(false),
  policyVersion: integer('policy_version').default(1),
  metadata: jsonb('metadata'),
  createdAt: at('created_at').defaultNow(),
  updatedAt: at('updated_at').defaultNow(),
})

export const oauthClientResources = pgTable(
  'oauth_client_resources',
  {
    id: id(),
    clientId: clientId(),
    resourceId: text('resource_id').notNull(),
    metadata: jsonb('metadata'),
    createdAt: at('created_at').defaultNow(),
  },
  (t) => [
    foreignKey({
      name: 'oauth_client_resources_resource_fkey',
      columns: [t.resourceId],
      foreignColumns: [oauthResources.identifier],
    }).onDelete('cascade'),
    index('oauth_client_resources_client_idx').on(t.clientId),
    index('oauth_client_resources_resource_idx').on(t.resourceId),
  ],
)

/** `token` is hashed by better-auth. */
export const oauthRefreshTokens = pgTable(
  'oauth_refresh_tokens',
  {
    id: id(),
    token: text('token').notNull().unique('oauth_refresh_tokens_token_key'),
    clientId: clientId(),
    sessionId: sessionId(),
    userId: userId().notNull(),
    referenceId: text('reference_id'),
    authorizationCodeId: text('authorization_code_id'),
    resources: text('resources').array(),
    requestedUserInfoClaims: text('requested_user_info_claims').array(),
    scopes: text('scopes').array().notNull(),
    expiresAt: at('expires_at').notNull(),
    createdAt: at('created_at').notNull(),
    revoked: at('revoked'),
    rotatedAt: at('rotated_at'),
    rotationReplayResponse: text('rotation_replay_response'),
    rotationReplayExpiresAt: at('rotation_replay_expires_at'),
    authTime: at('auth_time'),
    confirmation: jsonb('confirmation'),
  },
  (t) => [
    index('oauth_refresh_tokens_client_idx').on(t.clientId),
    index('oauth_refresh_tokens_session_idx').on(t.sessionId),
    index('oauth_refresh_tokens_user_idx').on(t.userId),
    index('oauth_refresh_tokens_code_idx').on(t.authorizationCodeId),
    index('oauth_refresh_tokens_expiry_idx').on(t.expiresAt),
  ],
)

/** `token` is hashed by better-auth. */
export const oauthAccessTokens = pgTable(
  'oauth_access_tokens',
  {
    id: id(),
    token: text('token').notNull().unique('oauth_access_tokens_token_key'),
    clientId: clientId(),
    sessionId: sessionId(),
    userId: userId(),
    referenceId: text('reference_id'),
    authorizationCodeId: text('authorization_code_id'),
    refreshId: text('refresh_id').references(() => oauthRefreshTokens.id, { onDelete: 'cascade' }),
    resources: text('resources').array(),
    requestedUserInfoClaims: text('requested_user_info_claims').array(),
    scopes: text('scopes').array().notNull(),
    expiresAt: at('expires_at').notNull(),
    createdAt: at('created_at').notNull(),
    revoked: at('revoked'),
    confirmation: jsonb('confirmation'),
  },
  (t) => [
    index('oauth_access_tokens_client_idx').on(t.clientId),
    index('oauth_access_tokens_session_idx').on(t.sessionId),
    index('oauth_access_tokens_user_idx').on(t.userId),
    index('oauth_access_tokens_code_idx').on(t.authorizationCodeId),
    index('oauth_access_tokens_refresh_idx').on(t.refreshId),
    index('oauth_access_tokens_expiry_idx').on(t.expiresAt),
  ],
)

export const oauthConsents = pgTable(
  'oauth_consents',
  {
    id: id(),
    clientId: clientId(),
    userId: userId(),
    referenceId: text('reference_id'),
    resources: text('resources').array(),
    requestedUserInfoClaims: text('requested_user_info_claims').array(),
    scopes: text('scopes').array().notNull(),
    createdAt: at('created_at').notNull(),
    updatedAt: at('updated_at').notNull(),
  },
  (t) => [index('oauth_consents_client_idx').on(t.clientId), index('oauth_consents_user_idx').on(t.userId)],
)

export const oauthClientAssertions = pgTable('oauth_client_assertions', {
  id: id(),
  expiresAt: at('expires_at').notNull(),
})
