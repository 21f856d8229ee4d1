import { describe, expect } from 'vitest'
import { startFakeOidc } from '../../../tests/support/fake-oidc.ts'
import { createScene, recordSignals } from '../../../tests/support/scene.ts'
import { test, type World } from '../../../tests/support/world.ts'
import { createGuardedCall } from '../../adapters/outbound/guarded-call.ts'
import { acceptInvitation } from '../organizations/accept-invitation.ts'
import { INVITATION_COOKIE } from './hooks.ts'
import { createOidcProvider } from './providers/oidc.ts'
import { type Browser, createSignInRig, invite, PASSWORD } from './test-rig.ts'

const call = createGuardedCall({ allowedHosts: [], anyAddress: true })

async function startProvider(world: World) {
  const fake = await startFakeOidc()
  world.defer(fake.stop)
  return fake
}

async function signUp(browser: Browser, email: string) {
  const answer = await browser.send('/sign-up/email', { name: 'Ada', email, password: PASSWORD })
  return { status: answer.status, body: (await answer.json()) as { code?: string } }
}

describe('where accounts are made by invitation', () => {
  test('a stranger makes none, on whichever way, and learns nothing of who is there', async ({ world }) => {
    const fake = await startProvider(world)
    const provider = createOidcProvider({ call }, { id: 'oidc', name: 'Fake', issuer: fake.issuer, ...fake.client })
    const { sql, browser, mails } = await createSignInRig(world, { providers: [provider] })
    const email = `${world.unique('stranger')}@example.com`
    await sql`insert into users (id, email, name) values (${email}, ${`known-${email}`}, 'Known')`

    expect(await signUp(browser(), email)).toMatchObject({ status: 403, body: { code: 'SIGN_UP_BY_INVITATION' } })
    expect(await signUp(browser(), `known-${email}`)).toMatchObject({
      status: 403,
      body: { code: 'SIGN_UP_BY_INVITATION' },
    })

    const linked = browser()
    await linked.send('/sign-in/magic-link', { email, callbackURL: '/account' })
    expect(mails).toEqual([])
    linked.jar.set(INVITATION_COOKIE, await invite(sql, (await createScene(world)).organizationId))
    await linked.send('/sign-in/magic-link', { email, callbackURL: '/account' })
    linked.jar.delete(INVITATION_COOKIE)
    const token = mails[0]!.url.split('link=')[1]
    const opened = await linked.send(`/magic-link/verify?token=${token}&callbackURL=/account`)
    expect(opened.headers.get('location')).toContain('error=SIGN_UP_BY_INVITATION')

    fake.signInAs({ sub: email, email, name: 'Stranger' })
    expect((await browser().comeBackFrom('oidc')).searchParams.get('error')).toBe('SIGN_UP_BY_INVITATION')
    expect(await sql`select 1 from users where email = ${email}`).toHaveLength(0)
  })

  test('the holder of an invitation makes one, on each way', async ({ world }) => {
    const fake = await startProvider(world)
    const provider = createOidcProvider({ call }, { id: 'oidc', name: 'Fake', issuer: fake.issuer, ...fake.client })
    const { sql, browser, mails } = await createSignInRig(world, { providers: [provider] })
    const { organizationId } = await createScene(world)
    const invited = async () => {
      const one = browser()
      one.jar.set(INVITATION_COOKIE, await invite(sql, organizationId))
      return one
    }
    const emails = [1, 2, 3].map(() => `${world.unique('guest')}@example.com`)
    const [first, second, third] = emails as [string, string, string]

    expect(await signUp(await invited(), first)).toMatchObject({ status: 200 })
    const linked = await invited()
    await linked.send('/sign-in/magic-link', { email: second, callbackURL: '/invite' })
    const token = mails.at(-1)!.url.split('link=')[1]
    const opened = await linked.send(`/magic-link/verify?token=${token}&callbackURL=/invite`)
    expect(opened.headers.get('location')).not.toContain('error')
    fake.signInAs({ sub: third, email: third, name: 'Third' })
    expect((await (await invited()).comeBackFrom('oidc')).pathname).toBe('/account')
    expect(await sql`select 1 from users where email in ${sql(emails)}`).toHaveLength(3)
  })

  test('an invitation that was used, withdrawn, has expired, or is for another address is none', async ({ world }) => {
    const { sql, browser } = await createSignInRig(world)
    const { organizationId } = await createScene(world)
    const attempt = async (token: string, email = `${world.unique('guest')}@example.com`) => {
      const one = browser()
      one.jar.set(INVITATION_COOKIE, token)
      return (await signUp(one, email)).status
    }
    const [used, withdrawn] = [await invite(sql, organizationId), await invite(sql, organizationId)]
    await sql`update invitations set accepted_at = now() where id = ${used.slice(0, 8)}`
    await sql`update invitations set revoked_at = now() where id = ${withdrawn.slice(0, 8)}`
    const email = `${world.unique('named')}@example.com`
    const named = await invite(sql, organizationId, { email })

    expect(await attempt(used)).toBe(403)
    expect(await attempt(withdrawn)).toBe(403)
    expect(await attempt(await invite(sql, organizationId, { hours: -1 }))).toBe(403)
    expect(await attempt('made-up')).toBe(403)
    expect(await attempt(named)).toBe(403)
    expect(await attempt(named, email.toUpperCase())).toBe(200)
  })
})

test('where everybody may make an account, everybody does', async ({ world }) => {
  const { browser } = await createSignInRig(world, { signUp: 'open' })
  expect(await signUp(browser(), `${world.unique('anyone')}@example.com`)).toMatchObject({ status: 200 })
})

describe('the provider of an organization', () => {
  async function createRig(world: World) {
    const fake = await startProvider(world)
    const { organizationId } = await createScene(world)
    const rig = await createSignInRig(world, { clientSecret: fake.client.clientSecret })
    const add = (id: string) => rig.sql`
      insert into organization_sign_ins (organization_id, provider_id, name, issuer, client_id, role)
      values (${organizationId}, ${id}, 'Their own', ${fake.issuer}, ${fake.client.clientId}, 'viewer')`
    return { ...rig, fake, organizationId, add }
  }

  test('lets its people in as members with the role that the organization chose', async ({ world }) => {
    const { sql, signIn, browser, rings, fake, organizationId, add } = await createRig(world)
    await signIn.current()
    const provider = world.unique('corp')
    await add(provider)
    signIn.forget()

    const email = `${world.unique('colleague')}@example.com`
    fake.signInAs({ sub: email, email, name: 'Colleague' })
    expect((await browser().comeBackFrom(provider)).pathname).toBe('/account')
    expect(rings.count).toBeGreaterThan(0)
    const found = await sql`
      select m.role, u.email_verified as verified from members m join users u on u.id = m.user_id
      where m.organization_id = ${organizationId} and u.email = ${email}`
    expect(found).toEqual([{ role: 'viewer', verified: false }])
    const actions = await sql`
      select action from audit_log where organization_id = ${organizationId} order by id`
    expect(actions.map(({ action }) => action)).toEqual(['member.joined', 'sign_in.succeeded'])
    expect(await sql`select access_token, id_token from user_accounts where provider_id = ${provider}`).toEqual([
      { access_token: null, id_token: null },
    ])
  })

  test('does not make a member again of somebody whom the organization has removed', async ({ world }) => {
    const { sql, browser, fake, organizationId, add } = await createRig(world)
    const provider = world.unique('corp')
    await add(provider)
    const email = `${world.unique('removed')}@example.com`
    fake.signInAs({ sub: email, email, name: 'Removed' })
    await browser().comeBackFrom(provider)
    await sql`delete from members where organization_id = ${organizationId}`
    await browser().comeBackFrom(provider)
    expect(await sql`select 1 from members where organization_id = ${organizationId}`).toHaveLength(0)
  })

  test('speaks for people of that organization alone, and for none of its owners', async ({ world }) => {
    const { sql, browser, fake, organizationId, add } = await createRig(world)
    const provider = world.unique('corp')
    await add(provider)
    const email = `${world.unique('colleague')}@example.com`
    fake.signInAs({ sub: email, email, name: 'Colleague' })
    const first = browser()
    await first.comeBackFrom(provider)
    expect(await (await first.send('/get-session')).json()).toMatchObject({ user: { email } })
    const [person] = await sql<{ id: string }[]>`select id from users where email = ${email}`
    const userId = person!.id
    const comeBack = async () => {
      const one = browser()
      await one.comeBackFrom(provider)
      return ((await (await one.send('/get-session')).json()) as { user: object } | null) !== null
    }
    expect(await comeBack()).toBe(true)

    await sql`update members set role = 'owner' where organization_id = ${organizationId} and user_id = ${userId}`
    expect(await comeBack()).toBe(false)
    await sql`update members set role = 'viewer' where organization_id = ${organizationId} and user_id = ${userId}`
    const elsewhere = (await createScene(world)).organizationId
    const token = await invite(sql, elsewhere)
    const [kept] = await sql<{ id: string }[]>`select id from user_sessions where user_id = ${userId} limit 1`
    await acceptInvitation({ sql, signals: recordSignals() }, { token, userId, kind: 'user', credentialId: kept!.id })
    expect(await sql`select id from user_sessions where user_id = ${userId}`).toEqual([{ id: kept!.id }])
    expect(await comeBack()).toBe(false)
  })

  test('cannot sign in as somebody else by naming their address', async ({ world }) => {
    const { sql, browser, fake, add } = await createRig(world)
    const provider = world.unique('corp')
    await add(provider)
    const email = `${world.unique('victim')}@example.com`
    await sql`insert into users (id, email, name, email_verified) values (${email}, ${email}, 'Victim', true)`
    fake.signInAs({ sub: 'attacker', email, name: 'Victim', email_verified: true })
    const landed = await browser().comeBackFrom(provider)
    expect(landed.searchParams.get('error')).toBe('account_not_linked')
    expect(await sql`select 1 from user_sessions where user_id = ${email}`).toHaveLength(0)
  })

  test.for([
    ['another issuer', { issuer: 'https://elsewhere.example' }],
    ['another audience', { audience: 'another client' }],
    ['another sign-in', { nonce: 'of another sign-in' }],
    ['nobody we know', { forged: true }],
    ['yesterday', { expired: true }],
  ] as const)('is not believed with an ID token of %s', async ([, how], { world }) => {
    const { sql, browser, fake, add } = await createRig(world)
    const provider = world.unique('corp')
    await add(provider)
    const email = `${world.unique('colleague')}@example.com`
    fake.signInAs({ sub: email, email, name: 'Colleague' })
    fake.misbehave(how)
    expect((await browser().comeBackFrom(provider)).searchParams.get('error')).toBe('unable_to_get_user_info')
    expect(await sql`select 1 from users where email = ${email}`).toHaveLength(0)
  })

  test('that does not answer is a sentence for the person, and hinders nobody else', async ({ world }) => {
    const { signIn, browser, fake, add } = await createRig(world)
    const provider = world.unique('corp')
    await add(provider)
    await fake.stop()
    await signIn.current()
    const answer = await browser().send('/sign-in/social', { provider, callbackURL: '/account' })
    expect(answer.status).toBe(503)
    expect(await answer.json()).toMatchObject({ code: 'PROVIDER_UNAVAILABLE' })
  })
})

test('an identity is added to an account by its owner, and never for its address alone', async ({ world }) => {
  const fake = await startProvider(world)
  const provider = createOidcProvider({ call }, { id: 'oidc', name: 'Fake', issuer: fake.issuer, ...fake.client })
  const { sql, browser } = await createSignInRig(world, { providers: [provider], signUp: 'open' })
  const email = `${world.unique('person')}@example.com`
  const owner = browser()
  await signUp(owner, email)
  await sql`update users set email_verified = true where email = ${email}`
  fake.signInAs({ sub: email, email, name: 'Person', email_verified: true })
  expect((await browser().comeBackFrom('oidc')).searchParams.get('error')).toBe('account_not_linked')

  const begun = await owner.send('/link-social', { provider: 'oidc', callbackURL: '/account' })
  const { url } = (await begun.json()) as { url: string }
  await owner.send((await fetch(url, { redirect: 'manual' })).headers.get('location') ?? '')
  expect((await browser().comeBackFrom('oidc')).pathname).toBe('/account')
})

describe('the way back from a provider', () => {
  test('works once, and for the browser that went', async ({ world }) => {
    const fake = await startProvider(world)
    const provider = createOidcProvider({ call }, { id: 'oidc', name: 'Fake', issuer: fake.issuer, ...fake.client })
    const { sql, browser } = await createSignInRig(world, { providers: [provider], signUp: 'open' })
    const email = `${world.unique('person')}@example.com`
    fake.signInAs({ sub: email, email, name: 'Person' })
    const mine = browser()
    const begun = await mine.send('/sign-in/social', { provider: 'oidc', callbackURL: '/account' })
    const { url } = (await begun.json()) as { url: string }
    const back = (await fetch(url, { redirect: 'manual' })).headers.get('location') ?? ''

    const stolen = await browser().send(back)
    expect(stolen.headers.get('location')).toMatch(/\/sign-in\?error=/)
    expect(await sql`select 1 from users where email = ${email}`).toHaveLength(0)

    const came = await mine.send(back)
    expect(came.headers.get('location')).toMatch(/\/account$/)
    const again = await mine.send(back)
    expect(again.headers.get('location')).toMatch(/\/sign-in\?error=/)
  })

  test('adds its identity to nobody but the person who went, who can still come back', async ({ world }) => {
    const fake = await startProvider(world)
    const provider = createOidcProvider({ call }, { id: 'oidc', name: 'Fake', issuer: fake.issuer, ...fake.client })
    const { sql, browser } = await createSignInRig(world, { providers: [provider], signUp: 'open' })
    const [mine, theirs] = ['mine', 'theirs'].map((name) => `${world.unique(name)}@example.com`) as [string, string]
    const [owner, other] = [browser(), browser()]
    await signUp(owner, mine)
    await signUp(other, theirs)
    fake.signInAs({ sub: mine, email: mine, name: 'Person', email_verified: true })
    const begun = await owner.send('/link-social', { provider: 'oidc', callbackURL: '/account' })
    const { url } = (await begun.json()) as { url: string }
    const back = (await fetch(url, { redirect: 'manual' })).headers.get('location') ?? ''
    const identities = () => sql`
      select u.email from user_accounts i join users u on u.id = i.user_id where i.provider_id = 'oidc' and i.account_id = ${mine}`

    const stolen = await other.send(back)
    expect(stolen.headers.get('location')).toMatch(/[?&]error=/)
    expect(await identities()).toEqual([])
    const came = await owner.send(back)
    expect(came.headers.get('location')).toMatch(/\/account$/)
    expect(await identities()).toEqual([{ email: mine }])
  })

  test.for(['https://evil.example', '//evil.example', '/\\evil.example', 'javascript:alert(1)'])(
    'never leads to %s',
    async (callbackURL, { world }) => {
      const fake = await startProvider(world)
      const provider = createOidcProvider({ call }, { id: 'oidc', name: 'Fake', issuer: fake.issuer, ...fake.client })
      const { browser } = await createSignInRig(world, { providers: [provider] })
      for (const name of ['callbackURL', 'errorCallbackURL', 'newUserCallbackURL']) {
        const body = { provider: 'oidc', callbackURL: '/account', [name]: callbackURL }
        expect((await browser().send('/sign-in/social', body)).status, name).toBe(403)
      }
    },
  )
})
