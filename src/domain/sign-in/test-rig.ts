import { randomBytes } from 'node:crypto'
import type { World } from '../../../tests/support/world.ts'
import { createGuardedCall } from '../../adapters/outbound/guarded-call.ts'
import { sha256 } from '../../lib/ids.ts'
import { createAuthenticator } from '../accounts/authenticate.ts'
import { createPersonLookup, createSessionCookies } from '../accounts/browser-session.ts'
import { createSessionTokens } from '../accounts/session-token.ts'
import { COOKIE_PREFIX } from './better-auth.ts'
import { CLIENT_ADDRESS_HEADER } from './hooks.ts'
import type { AccountMails } from './mails.ts'
import type { SignInProvider } from './providers/provider.ts'
import { createSignIn } from './sign-in.ts'

export const PUBLIC_URL = 'http://localhost:8787'
export const SECRET = 'a secret of the tests that is long enough'
export const PASSWORD = 'correct horse battery'

export interface SentMail {
  kind: keyof AccountMails
  to: string
  url: string
}

/** A replica's sign-in, with its authenticator. `rings` counts what would be rung to the others. */
export async function createSignInRig(
  world: World,
  options: {
    signUp?: 'invited' | 'open'
    providers?: SignInProvider[]
    clientSecret?: string
    publicUrl?: string
    trustedOrigins?: string[]
  } = {},
) {
  const { sql, orm } = await world.replica()
  const publicUrl = options.publicUrl ?? PUBLIC_URL
  const mails: SentMail[] = []
  const note = (kind: SentMail['kind']) => (to: string, url: string) => void mails.push({ kind, to, url })
  const rings = { count: 0 }
  const cookies = createSessionCookies({ secret: SECRET, publicUrl, prefix: COOKIE_PREFIX })
  const people = createPersonLookup({ sql, cookies })
  const authenticator = createAuthenticator({ sql, tokens: createSessionTokens(SECRET), people })
  const signIn = createSignIn(
    {
      ...{ sql, orm, log: world.log, providers: options.providers ?? [] },
      mails: { verify: note('verify'), resetPassword: note('resetPassword'), signIn: note('signIn') },
      accessChanged() {
        rings.count++
        authenticator.forget()
      },
      accessLost: async () => {},
      callOutside: createGuardedCall({ allowedHosts: ['127.0.0.1'] }),
      readClientSecret: async () => options.clientSecret ?? null,
    },
    {
      ...{ publicUrl, secret: SECRET, signUp: options.signUp ?? 'invited' },
      ...(options.trustedOrigins ? { trustedOrigins: options.trustedOrigins } : {}),
    },
  )
  return { sql, signIn, authenticator, mails, rings, browser: () => createBrowser(signIn.handle, publicUrl) }
}

export type Browser = ReturnType<typeof createBrowser>

/** Keeps cookies, and sends what browsers send. Each has an address of its own, so that rates of tests do not meet. */
function createBrowser(handle: (request: Request) => Promise<Response>, publicUrl: string) {
  const jar = new Map<string, string>()
  const address = `2001:db8:${randomBytes(2).toString('hex')}:${randomBytes(2).toString('hex')}::1`
  const cookie = () => [...jar].map(([name, value]) => `${name}=${value}`).join('; ')

  async function send(path: string, body?: object, more: Record<string, string> = {}): Promise<Response> {
    const url = path.startsWith('http') ? path : `${publicUrl}/api/auth${path}`
    const headers = { origin: new URL(publicUrl).origin, cookie: cookie(), [CLIENT_ADDRESS_HEADER]: address, ...more }
    const json = body ? { body: JSON.stringify(body), headers: { ...headers, 'content-type': 'application/json' } } : {}
    const response = await handle(new Request(url, { method: body ? 'POST' : 'GET', headers, ...json }))
    for (const line of response.headers.getSetCookie()) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(line) ?? []
      if (value === '' || /max-age=0/i.test(line)) jar.delete(name)
      else jar.set(name, value)
    }
    return response
  }

  return {
    ...{ send, cookie, jar },
    /** Goes to a provider and comes back as whoever is signed in there. Resolves with where we send the person then. */
    async comeBackFrom(provider: string, more: object = {}): Promise<URL> {
      const begun = await send('/sign-in/social', { provider, callbackURL: '/account', ...more })
      const { url } = (await begun.json()) as { url: string }
      const away = await fetch(url, { redirect: 'manual' })
      const back = await send(away.headers.get('location') ?? '')
      return new URL(back.headers.get('location') ?? '', publicUrl)
    },
  }
}

/** An invitation as an organization makes it; the branch of organizations has the verb. */
export async function invite(
  sql: Awaited<ReturnType<World['replica']>>['sql'],
  organizationId: string,
  { email = null, hours = 1 }: { email?: string | null; hours?: number } = {},
): Promise<string> {
  const token = randomBytes(24).toString('base64url')
  await sql`
    insert into invitations (organization_id, id, email, role, token_hash, expires_at)
    values (${organizationId}, ${token.slice(0, 8)}, ${email}, 'member', ${sha256(token)}, now() + make_interval(hours => ${hours}))`
  return token
}
