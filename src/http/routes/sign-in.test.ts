import { describe, expect } from 'vitest'
import { startFakeOidc } from '../../../tests/support/fake-oidc.ts'
import { serve } from '../../../tests/support/http.ts'
import { test, type World } from '../../../tests/support/world.ts'
import { createGuardedCall } from '../../adapters/outbound/guarded-call.ts'
import { createOidcProvider } from '../../domain/sign-in/providers/oidc.ts'
import { createSignInRig, PASSWORD } from '../../domain/sign-in/test-rig.ts'
import { signInRoutes } from './sign-in.ts'

const SPOOFED = {
  'x-forwarded-host': 'evil.test',
  'x-forwarded-proto': 'http',
  'x-forwarded-port': '1',
  forwarded: 'host=evil.test;proto=http',
  'x-original-host': 'evil.test',
  'x-lobu-client-address': '203.0.113.66',
}

async function start(world: World, publicUrl: string) {
  const fake = await startFakeOidc()
  world.defer(fake.stop)
  const call = createGuardedCall({ allowedHosts: [], anyAddress: true })
  const provider = createOidcProvider({ call }, { id: 'oidc', name: 'Fake', issuer: fake.issuer, ...fake.client })
  const rig = await createSignInRig(world, { providers: [provider], signUp: 'open', publicUrl })
  // All come from one address here, and the tests of a file share its tables.
  await rig.sql`delete from sign_in_rate_limits`
  const { url } = await serve((app) => app.route('/', signInRoutes({ signIn: rig.signIn, publicUrl })))
  const post = (path: string, body: object, headers: Record<string, string> = {}) =>
    fetch(`${url}/api/auth${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', origin: new URL(publicUrl).origin, ...headers },
      body: JSON.stringify(body),
    })
  return { ...rig, url, post }
}

describe.each(['http://localhost:8787', 'https://lobu.test', 'https://lobu.test:8443', 'https://lobu.test/some/base'])(
  'under %s',
  (publicUrl) => {
    test('callbacks and cookies go by it, whatever the request says about hosts', async ({ world }) => {
      const { post } = await start(world, publicUrl)
      for (const headers of [{}, SPOOFED]) {
        const begun = await post('/sign-in/social', { provider: 'oidc', callbackURL: '/account' }, headers)
        const { url } = (await begun.json()) as { url: string }
        expect(new URL(url).searchParams.get('redirect_uri')).toBe(`${publicUrl}/api/auth/callback/oidc`)
      }
      const email = `${world.unique('ada')}@example.com`
      const signedUp = await post('/sign-up/email', { name: 'Ada', email, password: PASSWORD }, SPOOFED)
      const cookie = signedUp.headers.getSetCookie().find((line) => line.includes('session_token='))
      const secure = publicUrl.startsWith('https:')
      expect(cookie).toMatch(
        secure ? /^__Secure-lobu\.session_token=.*; Secure/ : /^lobu\.session_token=(?!.*; Secure)/,
      )
      expect(cookie).toMatch(/; HttpOnly/)
      expect(cookie).toMatch(/; SameSite=Lax/)
      expect(cookie).not.toMatch(/domain=/i)
    })
  },
)

test('the address of a session is whom we took the request from, not what was written into it', async ({ world }) => {
  const { post, sql } = await start(world, 'http://localhost:8787')
  const email = `${world.unique('ada')}@example.com`
  const forged = { ...SPOOFED, 'x-forwarded-for': '203.0.113.66', 'x-real-ip': '203.0.113.66' }
  expect((await post('/sign-up/email', { name: 'Ada', email, password: PASSWORD }, forged)).status).toBe(200)
  const [session] = await sql`
    select s.ip_address as ip from user_sessions s join users u on u.id = s.user_id where u.email = ${email}`
  expect(session!.ip).toBe('127.0.0.1')
})

test('errors have our form, and none of what better-auth or the database said about itself', async ({ world }) => {
  const { post, url, sql } = await start(world, 'http://localhost:8787')
  const refused = await post('/sign-in/email', { email: 'nobody@example.com', password: 'a wrong password' })
  expect(refused.status).toBe(401)
  expect(await refused.json()).toEqual({ error: 'Invalid email or password', code: 'invalid_email_or_password' })
  const elsewhere = await post(
    '/sign-in/email',
    { email: 'a@example.com', password: 'b' },
    { origin: 'https://evil.test', cookie: 'a=b' },
  )
  expect(await elsewhere.json()).toMatchObject({ code: 'invalid_origin' })
  for (const path of ['/nothing', '/error?error=%3Cscript%3E']) {
    const missing = await fetch(`${url}/api/auth${path}`, { redirect: 'manual' })
    expect(missing.status, path).toBe(404)
    expect(await missing.json(), path).toMatchObject({ code: 'not_found' })
  }
  await sql`alter table users rename to users_away`
  const broken = await post('/sign-in/email', { email: 'nobody@example.com', password: 'a wrong password' })
  await sql`alter table users_away rename to users`
  expect(broken.status).toBe(500)
  expect(await broken.json()).toMatchObject({ code: 'internal', error: 'Something went wrong on our side' })
})
