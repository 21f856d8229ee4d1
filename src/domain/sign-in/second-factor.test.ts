import { createHmac } from 'node:crypto'
import { describe, expect } from 'vitest'
import { test, type World } from '../../../tests/support/world.ts'
import { type Browser, createSignInRig, PASSWORD, PUBLIC_URL } from './test-rig.ts'

/** https://www.rfc-editor.org/rfc/rfc6238, with the usual six digits and thirty seconds. */
function codeOf(secret: string): string {
  const bits = [...secret].map((letter) =>
    'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(letter).toString(2).padStart(5, '0'),
  )
  const key = Buffer.from(
    bits
      .join('')
      .match(/.{8}/g)!
      .map((byte) => Number.parseInt(byte, 2)),
  )
  const counter = Buffer.alloc(8)
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000)))
  const hash = createHmac('sha1', key).update(counter).digest()
  const number = hash.readUInt32BE(hash.at(-1)! & 15) & 0x7fffffff
  return String(number % 1_000_000).padStart(6, '0')
}

/** A person with a password and a second factor, and what a browser of theirs is let do. */
async function createStage(world: World) {
  const rig = await createSignInRig(world, { signUp: 'open' })
  const email = `${world.unique('person')}@example.com`
  const first = rig.browser()
  await first.send('/sign-up/email', { name: 'Ada', email, password: PASSWORD })
  await rig.sql`update users set email_verified = true where email = ${email}`
  const enabled = (await (await first.send('/two-factor/enable', { password: PASSWORD })).json()) as { totpURI: string }
  const secret = new URL(enabled.totpURI).searchParams.get('secret')!
  expect((await first.send('/two-factor/verify-totp', { code: codeOf(secret) })).status).toBe(200)
  const isSignedIn = async (browser: Browser) => {
    const session = (await (await browser.send('/get-session')).json()) as { user?: { email: string } } | null
    return session?.user?.email === email
  }
  const sessions = async () => {
    const rows = await rig.sql`
      select 1 from user_sessions s join users u on u.id = s.user_id where u.email = ${email}`
    return rows.length
  }
  async function mailedLink(browser: Browser, callbackURL = '/account?tab=keys') {
    await browser.send('/sign-in/magic-link', { email, callbackURL })
    const token = rig.mails.at(-1)!.url.split('link=')[1]
    return `/magic-link/verify?token=${token}&callbackURL=${encodeURIComponent(callbackURL)}`
  }
  return { ...rig, email, secret, isSignedIn, sessions, mailedLink }
}

describe('a mailed link of somebody with a second factor', () => {
  test('leads to where the code is asked for, and signs nobody in before it', async ({ world }) => {
    const { browser, secret, isSignedIn, sessions, mailedLink } = await createStage(world)
    const before = await sessions()
    const other = browser()
    const answer = await other.send(await mailedLink(other))
    expect(answer.status).toBe(302)
    const place = new URL(answer.headers.get('location')!)
    expect(`${place.origin}${place.pathname}`).toBe(`${PUBLIC_URL}/sign-in`)
    expect(Object.fromEntries(place.searchParams)).toEqual({ code: 'needed', next: '/account?tab=keys' })
    expect(await isSignedIn(other)).toBe(false)
    expect(await sessions()).toBe(before)

    const wrong = await other.send('/two-factor/verify-totp', { code: '000000' })
    expect(wrong.status).toBeGreaterThanOrEqual(400)
    expect(await isSignedIn(other)).toBe(false)
    expect((await other.send('/two-factor/verify-totp', { code: codeOf(secret) })).status).toBe(200)
    expect(await isSignedIn(other)).toBe(true)
  })

  test('that is not opened by a page is answered that a code is needed', async ({ world }) => {
    const { browser, isSignedIn, mailedLink } = await createStage(world)
    const other = browser()
    const link = await mailedLink(other)
    const answer = await other.send(link.split('&callbackURL')[0]!)
    expect(await answer.json()).toMatchObject({ twoFactorRedirect: true })
    expect(await isSignedIn(other)).toBe(false)
  })

  test('is good once: the code of another browser does not go with it', async ({ world }) => {
    const { browser, isSignedIn, mailedLink, secret } = await createStage(world)
    const [first, second] = [browser(), browser()]
    const link = await mailedLink(first)
    await first.send(link)
    const again = await second.send(link)
    expect(again.headers.get('location')).toContain('error=INVALID_TOKEN')
    expect((await second.send('/two-factor/verify-totp', { code: codeOf(secret) })).status).toBeGreaterThanOrEqual(400)
    expect(await isSignedIn(second)).toBe(false)
  })
})

test('a password asks for the second factor as before, and a link of somebody without one asks for nothing', async ({
  world,
}) => {
  const { browser, email, sql, isSignedIn, mailedLink } = await createStage(world)
  const one = browser()
  const answer = await one.send('/sign-in/email', { email, password: PASSWORD })
  expect(await answer.json()).toMatchObject({ twoFactorRedirect: true })
  expect(await isSignedIn(one)).toBe(false)

  await sql`update users set two_factor_enabled = false where email = ${email}`
  const other = browser()
  const opened = await other.send(await mailedLink(other))
  expect(new URL(opened.headers.get('location')!, PUBLIC_URL).pathname).toBe('/account')
  expect(await isSignedIn(other)).toBe(true)
})
