import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { createGithubProvider } from './github.ts'
import type { HttpCall } from './provider.ts'

const OPTIONS = {
  ...{ clientId: 'lobu', clientSecret: 'secret' },
  ...{ baseUrl: 'https://git.test', apiUrl: 'https://git.test/api/v3' },
}
const REDIRECT = 'https://lobu.test/api/auth/callback/github'

function fake(answers: Record<string, unknown>) {
  const asked: { url: string; body?: string | undefined; authorization?: string | undefined }[] = []
  const call: HttpCall = async (url, init) => {
    asked.push({ url, body: init?.body, authorization: init?.headers?.authorization })
    const answer = answers[url]
    return answer === undefined ? { status: 404, text: '{}' } : { status: 200, text: JSON.stringify(answer) }
  }
  return { asked, ...createGithubProvider({ call }, OPTIONS) }
}

test('a person is sent away with a challenge, and known by their number and primary address', async () => {
  const { oauth, asked } = fake({
    'https://git.test/login/oauth/access_token': { access_token: 'token' },
    'https://git.test/api/v3/user': { id: 42, login: 'ada', name: null, email: 'shown@example.com' },
    'https://git.test/api/v3/user/emails': [
      { email: 'old@example.com', primary: false, verified: true },
      { email: 'ada@example.com', primary: true, verified: true },
    ],
  })
  const away = await oauth.createAuthorizationURL({ state: 'state', codeVerifier: 'verifier', redirectURI: REDIRECT })
  expect(away.origin + away.pathname).toBe('https://git.test/login/oauth/authorize')
  expect(Object.fromEntries(away.searchParams)).toMatchObject({
    ...{ client_id: 'lobu', state: 'state', redirect_uri: REDIRECT },
    code_challenge: createHash('sha256').update('verifier').digest('base64url'),
  })
  const tokens = await oauth.validateAuthorizationCode({
    code: 'code',
    codeVerifier: 'verifier',
    redirectURI: REDIRECT,
  })
  expect(Object.fromEntries(new URLSearchParams(asked[0]!.body))).toMatchObject({
    ...{ code: 'code', code_verifier: 'verifier', redirect_uri: REDIRECT, client_secret: 'secret' },
  })
  const found = await oauth.getUserInfo(tokens!)
  expect(found).toMatchObject({
    user: { email: 'ada@example.com', emailVerified: true, name: 'ada' },
    data: { sub: '42' },
  })
  expect(asked.at(-1)!.authorization).toBe('Bearer token')
})

test('a code that GitHub does not take is refused although its status is 200', async () => {
  const { oauth } = fake({ 'https://git.test/login/oauth/access_token': { error: 'bad_verification_code' } })
  const tried = oauth.validateAuthorizationCode({ code: 'code', codeVerifier: 'verifier', redirectURI: REDIRECT })
  await expect(tried).rejects.toThrow(/bad_verification_code/)
})
