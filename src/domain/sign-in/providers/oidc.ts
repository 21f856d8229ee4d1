import { createHash } from 'node:crypto'
import { createRemoteJWKSet, customFetch, type JWTPayload, jwtVerify } from 'jose'
import {
  callJson,
  exchangeCode,
  type HttpCall,
  type Profile,
  ProviderError,
  type SignInProvider,
  toUserInfo,
} from './provider.ts'

/** How long endpoints and keys are believed before they are asked for again. */
const DISCOVERY_MS = 600_000
/** Signatures with a public key only: with a shared secret anybody who has it could write tokens. */
const ALGORITHMS = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA']
const CLOCK_SKEW_SECONDS = 60

export interface OidcOptions extends Omit<SignInProvider, 'oauth'> {
  /** Where `/.well-known/openid-configuration` lies, and what ID tokens must name. */
  issuer: string
  clientId: string
  clientSecret: string
}

interface Discovery {
  issuer: string
  authorizationEndpoint: string
  tokenEndpoint: string
  userinfoEndpoint: string | undefined
  keys: ReturnType<typeof createRemoteJWKSet>
}

/**
 * Any OpenID Connect provider, by its issuer: code flow with PKCE, `state` and `nonce`; the ID token's signature, issuer,
 * audience and nonce are checked. Endpoints are looked up when somebody comes to sign in, so a provider that is down hinders
 * nobody else. https://openid.net/specs/openid-connect-core-1_0.html
 */
export function createOidcProvider({ call }: { call: HttpCall }, options: OidcOptions): SignInProvider {
  const { clientId, clientSecret, issuer, ...about } = options
  const discover = keepFor(DISCOVERY_MS, () => readDiscovery(call, issuer))

  async function verify(idToken: string, nonce: string | undefined): Promise<JWTPayload> {
    const { keys, issuer: named } = await discover()
    const checks = { issuer: named, audience: clientId, algorithms: ALGORITHMS, clockTolerance: CLOCK_SKEW_SECONDS }
    const { payload } = await jwtVerify(idToken, keys, { ...checks, requiredClaims: ['sub', 'exp', 'iat'] })
    if (nonce === undefined || payload.nonce !== nonce) throw new ProviderError('the ID token is for another sign-in')
    return payload
  }

  async function readProfile(tokens: { idToken?: string; accessToken?: string }, nonce: string | undefined) {
    if (tokens.idToken === undefined) throw new ProviderError('the provider gave no ID token')
    const claims = await verify(tokens.idToken, nonce)
    const { userinfoEndpoint } = await discover()
    if (typeof claims.email === 'string' || userinfoEndpoint === undefined) return toProfile(claims)
    const headers = { authorization: `Bearer ${tokens.accessToken}` }
    const more = await callJson(call, userinfoEndpoint, { headers })
    if (more.sub !== claims.sub) throw new ProviderError('the profile is of somebody else')
    return toProfile({ ...claims, ...more })
  }

  return {
    ...about,
    oauth: {
      id: about.id,
      name: about.name,
      requiresIdTokenNonce: true,
      accountSubject: ({ profile }) => (profile as Profile).sub,
      async createAuthorizationURL({ state, codeVerifier, redirectURI, idTokenNonce = '', loginHint }) {
        const url = new URL((await discover()).authorizationEndpoint)
        const query = {
          response_type: 'code',
          client_id: clientId,
          redirect_uri: redirectURI,
          state,
          nonce: idTokenNonce,
        }
        for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value)
        url.searchParams.set('scope', 'openid email profile')
        url.searchParams.set('code_challenge', createHash('sha256').update(codeVerifier).digest('base64url'))
        url.searchParams.set('code_challenge_method', 'S256')
        if (loginHint) url.searchParams.set('login_hint', loginHint)
        return url
      },
      async validateAuthorizationCode({ code, codeVerifier, redirectURI }) {
        const { tokenEndpoint: endpoint } = await discover()
        return exchangeCode(call, { endpoint, clientId, clientSecret, code, codeVerifier, redirectURI })
      },
      async getUserInfo({ expectedIdTokenNonce, idToken, accessToken }) {
        const tokens = { ...(idToken ? { idToken } : {}), ...(accessToken ? { accessToken } : {}) }
        const profile = await readProfile(tokens, expectedIdTokenNonce)
        // Whoever runs an organization's provider can write any address into it.
        if (about.organizationId !== undefined) profile.emailVerified = false
        return toUserInfo(profile)
      },
    },
  }
}

async function readDiscovery(call: HttpCall, issuer: string): Promise<Discovery> {
  const found = await callJson(call, `${issuer.replace(/\/+$/, '')}/.well-known/openid-configuration`)
  const text = (name: string) => (typeof found[name] === 'string' ? found[name] : undefined)
  const [named, authorization, token, jwks] = [
    text('issuer'),
    text('authorization_endpoint'),
    text('token_endpoint'),
    text('jwks_uri'),
  ]
  if (!named || !authorization || !token || !jwks) throw new ProviderError('the discovery document is incomplete')
  if (named.replace(/\/+$/, '') !== issuer.replace(/\/+$/, '')) throw new ProviderError('the issuer is another one')
  const fetchKeys = async (url: string) => {
    const { status, text: body } = await call(url)
    return new Response(body, { status })
  }
  return {
    issuer: named,
    authorizationEndpoint: authorization,
    tokenEndpoint: token,
    userinfoEndpoint: text('userinfo_endpoint'),
    keys: createRemoteJWKSet(new URL(jwks), { [customFetch]: fetchKeys }),
  }
}

function toProfile(claims: JWTPayload): Profile {
  const text = (name: string) => (typeof claims[name] === 'string' && claims[name] !== '' ? claims[name] : undefined)
  const email = text('email') ?? null
  const image = text('picture')
  return {
    sub: claims.sub ?? '',
    email,
    // Some send it as a word. https://openid.net/specs/openid-connect-core-1_0.html#StandardClaims
    emailVerified: claims.email_verified === true || claims.email_verified === 'true',
    name: text('name') ?? text('preferred_username') ?? email ?? '',
    ...(image?.startsWith('https://') ? { image } : {}),
  }
}

/** The value of `make`, for that long; callers at the same time share one try, and one that failed is not kept. */
function keepFor<T>(ms: number, make: () => Promise<T>): () => Promise<T> {
  let kept: { value: Promise<T>; until: number } | undefined
  return () => {
    if (kept && performance.now() < kept.until) return kept.value
    const value = make()
    kept = { value, until: performance.now() + ms }
    value.catch(() => {
      if (kept?.value === value) kept = undefined
    })
    return value
  }
}
