import { SignJWT } from 'jose'
import { afterEach, expect, test, vi } from 'vitest'
import { createSessionTokens, SESSION_MS } from './session-token.ts'

const SECRET = 'a secret of the tests that is long enough'
const CLAIMS = {
  organizationId: 'org_1',
  organizationSlug: 'acme',
  agentId: 'assistant',
  userId: 'user-1',
  conversationId: 'conv_1',
}
const { agentId: _, ...SPEAKER } = CLAIMS

afterEach(() => {
  vi.useRealTimers()
})

test('a token says on every replica what it was signed for, for 24 hours', async () => {
  const now = Date.now()
  vi.useFakeTimers({ now, toFake: ['Date'] })
  const { token, expiresAt } = await createSessionTokens(SECRET).sign(CLAIMS)
  const other = createSessionTokens(SECRET)

  expect(expiresAt).toBeGreaterThan(now + SESSION_MS - 1_000)
  expect(expiresAt).toBeLessThanOrEqual(now + SESSION_MS)
  expect(await other.verify(token)).toMatchObject({ kind: 'session', ...SPEAKER })
  vi.setSystemTime(expiresAt - 1_000)
  expect(await other.verify(token)).toMatchObject({ kind: 'session', ...SPEAKER })
  vi.setSystemTime(expiresAt)
  expect(await other.verify(token)).toBeNull()
})

test('a token of another gateway, or one that was changed, is none', async () => {
  const tokens = createSessionTokens(SECRET)
  const { token } = await tokens.sign(CLAIMS)
  const [head, body, signature] = token.split('.')
  const forged = Buffer.from(body!, 'base64url').toString().replace('conv_1', 'conv_2')

  expect(await createSessionTokens('another secret, just as long as it').verify(token)).toBeNull()
  for (const changed of [
    '',
    'x',
    `${token}x`,
    `${head}.${body}.`,
    `${head}.${Buffer.from(forged).toString('base64url')}.${signature}`,
    `${Buffer.from('{"alg":"none","typ":"JWT"}').toString('base64url')}.${body}.`,
  ]) {
    expect(await tokens.verify(changed)).toBeNull()
  }
})

test('a token signed with the secret itself, for another audience or without all claims is none', async () => {
  const tokens = createSessionTokens(SECRET)
  const sign = (key: Uint8Array, audience: string, claims: Record<string, string>) =>
    new SignJWT(claims)
      .setProtectedHeader({ alg: 'HS256', typ: 'JWT' })
      .setSubject('user-1')
      .setIssuer('lobu')
      .setAudience(audience)
      .setExpirationTime('1h')
      .sign(key)
  const claims = { org: 'org_1', slug: 'acme', agent: 'assistant', conv: 'conv_1' }

  expect(await tokens.verify(await sign(new TextEncoder().encode(SECRET), 'session', claims))).toBeNull()
  const { hkdfSync } = await import('node:crypto')
  const key = new Uint8Array(hkdfSync('sha256', SECRET, '', 'lobu session token v1', 32))
  expect(await tokens.verify(await sign(key, 'session', claims))).not.toBeNull()
  expect(await tokens.verify(await sign(key, 'worker', claims))).toBeNull()
  for (const name of ['org', 'slug', 'agent', 'conv']) {
    expect(await tokens.verify(await sign(key, 'session', { ...claims, [name]: undefined as never }))).toBeNull()
  }
})
