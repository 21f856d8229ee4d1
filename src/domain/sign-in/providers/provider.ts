import type { OAuthProvider } from '@better-auth/core/oauth2'
import { parseObject } from '../../../lib/text.ts'
import type { Role } from '../../accounts/permissions.ts'

/** What is read of an answer at most; discovery documents, key sets and tokens are a few kilobytes. */
export type HttpCall = (
  url: string,
  init?: { method?: 'GET' | 'POST'; headers?: Record<string, string>; body?: string },
) => Promise<{ status: number; text: string }>

/** Somewhere else that people can sign in. Its callback is `/api/auth/callback/<id>`. */
export interface SignInProvider {
  id: string
  /** On the button. */
  name: string
  /**
   * People who come from here for the first time become members of this organization (null: the default one), invited or
   * not. Undefined: they need an invitation like everybody else.
   */
  joins?: { organizationId: string | null; role: Exclude<Role, 'owner'> } | undefined
  /** Set up by one organization: shown to who asks for it, and not believed about e-mail addresses. */
  organizationId?: string
  oauth: OAuthProvider
}

/** What a provider said, reduced to what we keep. */
export interface Profile {
  sub: string
  email: string | null
  emailVerified: boolean
  name: string
  image?: string
}

/** Thrown for an answer that cannot be used; better-auth logs it and sends the person back to the sign-in page. */
export class ProviderError extends Error {
  constructor(message: string, cause?: unknown) {
    super(message, { cause })
    this.name = 'ProviderError'
  }
}

/** @throws ProviderError for anything but a 2xx with a JSON object. */
export async function callJson(call: HttpCall, ...args: Parameters<HttpCall>): Promise<Record<string, unknown>> {
  const { status, text } = await call(...args)
  const body = parseObject(text)
  if (status >= 200 && status < 300 && body) return body
  const code = typeof body?.error === 'string' ? ` (${body.error.slice(0, 60)})` : ''
  throw new ProviderError(`the provider answered ${status}${code}`)
}

/** The code exchange of RFC 6749 with PKCE, the client's secret in the body. */
export async function exchangeCode(
  call: HttpCall,
  args: {
    endpoint: string
    clientId: string
    clientSecret: string
    code: string
    codeVerifier?: string | undefined
    redirectURI: string
  },
) {
  const body = new URLSearchParams({
    grant_type: 'authorization_code',
    code: args.code,
    redirect_uri: args.redirectURI,
    client_id: args.clientId,
    client_secret: args.clientSecret,
    ...(args.codeVerifier === undefined ? {} : { code_verifier: args.codeVerifier }),
  })
  const headers = { accept: 'application/json', 'content-type': 'application/x-www-form-urlencoded' }
  const tokens = await callJson(call, args.endpoint, { method: 'POST', headers, body: body.toString() })
  // GitHub answers 200 to a code that it does not take.
  if (typeof tokens.access_token !== 'string') throw new ProviderError(`no access token (${String(tokens.error)})`)
  return {
    tokenType: 'bearer',
    accessToken: tokens.access_token,
    ...(typeof tokens.id_token === 'string' ? { idToken: tokens.id_token } : {}),
  }
}

/** The profile in the two forms that better-auth wants. */
export function toUserInfo(profile: Profile) {
  const { email, emailVerified, name, image } = profile
  return { user: { email, emailVerified, name, ...(image === undefined ? {} : { image }) }, data: { ...profile } }
}
