import { OAUTH_SCOPES } from '../../domain/accounts/scopes.ts'

/**
 * What clients read first (RFC 8414, OpenID Connect Discovery). Written here and not by better-auth, so that it names the
 * paths that go through `oauth-server.ts` and promises nothing that is closed there.
 */
export function authorizationServerMetadata(publicUrl: string) {
  return {
    issuer: publicUrl,
    authorization_endpoint: `${publicUrl}/oauth/authorize`,
    token_endpoint: `${publicUrl}/oauth/token`,
    registration_endpoint: `${publicUrl}/oauth/register`,
    revocation_endpoint: `${publicUrl}/oauth/revoke`,
    device_authorization_endpoint: `${publicUrl}/oauth/device`,
    userinfo_endpoint: `${publicUrl}/oauth/userinfo`,
    jwks_uri: `${publicUrl}/api/auth/jwks`,
    scopes_supported: OAUTH_SCOPES,
    response_types_supported: ['code'],
    response_modes_supported: ['query'],
    grant_types_supported: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
    token_endpoint_auth_methods_supported: ['none'],
    revocation_endpoint_auth_methods_supported: ['none'],
    code_challenge_methods_supported: ['S256'],
    authorization_response_iss_parameter_supported: true,
    prompt_values_supported: ['none', 'login', 'consent'],
    subject_types_supported: ['public'],
    id_token_signing_alg_values_supported: ['EdDSA'],
    claims_supported: ['sub', 'iss', 'aud', 'exp', 'iat', 'email', 'name', 'picture'],
  }
}

/** What is protected, for a client that was answered 401 (RFC 9728). `path` is empty for the whole gateway. */
export function protectedResourceMetadata(publicUrl: string, path: string) {
  return {
    resource: `${publicUrl}${path}`,
    authorization_servers: [publicUrl],
    scopes_supported: OAUTH_SCOPES,
    bearer_methods_supported: ['header'],
    resource_name: 'Lobu gateway',
  }
}

/** Paths that are resources of their own; all others belong to the gateway as a whole. */
export const RESOURCE_PATH = /^\/mcp(\/[a-z0-9][a-z0-9-]{0,62})?$/

/** Where a client that was refused at `path` finds out how to be let in. */
export function resourceMetadataUrl(publicUrl: string, path: string): string {
  return `${publicUrl}/.well-known/oauth-protected-resource${RESOURCE_PATH.test(path) ? path : ''}`
}
