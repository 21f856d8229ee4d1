import { expect } from 'vitest'
import { test } from '../../../tests/support/world.ts'
import { createBetterAuth } from './better-auth.ts'

const PUBLIC_URL = 'http://localhost:8787'

test('a person signs up, is known by the cookie, and no more after signing out', async ({ world }) => {
  const { orm } = await world.replica()
  const auth = createBetterAuth({ orm }, { publicUrl: PUBLIC_URL, secret: 'a secret of the tests that is long enough' })
  const send = (path: string, body?: object, cookie = '') =>
    auth.handler(
      new Request(`${PUBLIC_URL}/api/auth${path}`, {
        method: body ? 'POST' : 'GET',
        headers: { origin: PUBLIC_URL, cookie, ...(body ? { 'content-type': 'application/json' } : {}) },
        ...(body ? { body: JSON.stringify(body) } : {}),
      }),
    )
  const email = `${world.unique('person')}@example.com`
  const signedUp = await send('/sign-up/email', { name: 'Ada', email, password: 'correct horse battery' })
  expect(signedUp.status).toBe(200)
  const cookie = signedUp.headers
    .getSetCookie()
    .map((one) => one.split(';')[0])
    .join('; ')
  expect(cookie).toMatch(/^lobu\.session_token=/)
  expect(await (await send('/get-session', undefined, cookie)).json()).toMatchObject({ user: { email, name: 'Ada' } })

  expect((await send('/sign-out', {}, cookie)).status).toBe(200)
  expect(await (await send('/get-session', undefined, cookie)).json()).toBeNull()
})
