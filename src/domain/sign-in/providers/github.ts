import { createHash } from 'node:crypto'
import { callJson, exchangeCode, type HttpCall, type Profile, type SignInProvider, toUserInfo } from './provider.ts'

export interface GithubOptions {
  clientId: string
  clientSecret: string
  /** `https://github.com`, or a GitHub Enterprise Server. */
  baseUrl: string
  /** `https://api.github.com`, or `<server>/api/v3`. */
  apiUrl: string
}

/** GitHub speaks OAuth 2 and no OpenID Connect. https://docs.github.com/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps */
export function createGithubProvider({ call }: { call: HttpCall }, options: GithubOptions): SignInProvider {
  const { clientId, clientSecret, baseUrl, apiUrl } = options
  return {
    id: 'github',
    name: 'GitHub',
    oauth: {
      id: 'github',
      name: 'GitHub',
      accountSubject: ({ profile }) => (profile as Profile).sub,
      createAuthorizationURL({ state, codeVerifier, redirectURI }) {
        const url = new URL(`${baseUrl}/login/oauth/authorize`)
        const challenge = createHash('sha256').update(codeVerifier).digest('base64url')
        const query = { client_id: clientId, redirect_uri: redirectURI, state, scope: 'read:user user:email' }
        for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value)
        url.searchParams.set('code_challenge', challenge)
        url.searchParams.set('code_challenge_method', 'S256')
        return url
      },
      validateAuthorizationCode: ({ code, codeVerifier, redirectURI }) =>
        exchangeCode(call, {
          endpoint: `${baseUrl}/login/oauth/access_token`,
          ...{ clientId, clientSecret, code, codeVerifier, redirectURI },
        }),
      async getUserInfo({ accessToken = '' }) {
        const headers = { authorization: `Bearer ${accessToken}`, accept: 'application/json', 'user-agent': 'lobu' }
        const [person, emails] = await Promise.all([
          callJson(call, `${apiUrl}/user`, { headers }),
          callJson(call, `${apiUrl}/user/emails`, { headers }),
        ])
        return toUserInfo(toProfile(person, Object.values(emails) as Email[]))
      },
    },
  }
}

interface Email {
  email?: unknown
  primary?: unknown
  verified?: unknown
}

function toProfile(person: Record<string, unknown>, emails: Email[]): Profile {
  const chosen = emails.find(({ primary }) => primary === true) ?? emails[0]
  const { id, login, name, avatar_url: image } = person
  return {
    sub: String(id ?? ''),
    email: typeof chosen?.email === 'string' ? chosen.email : null,
    emailVerified: chosen?.verified === true,
    name: typeof name === 'string' && name !== '' ? name : String(login ?? ''),
    ...(typeof image === 'string' ? { image } : {}),
  }
}
