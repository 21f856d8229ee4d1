import { createHmac } from 'node:crypto'
import type { Browser, BrowserContext, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect } from 'vitest'
import { findChromium, launchBrowser, openPage } from '../support/browser.ts'
import { test as base, type Cluster, SECRETS } from '../support/cluster.ts'
import { type FakeOidc, startFakeOidc } from '../support/fake-oidc.ts'
import { type FakeSmtp, startFakeSmtp } from '../support/fake-smtp.ts'
import { startGateway, until } from '../support/gateway.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('several replicas')

const chromium = findChromium()
const OWNER = { email: 'ada@example.com', password: 'correct horse battery' }

interface Install {
  oidc: FakeOidc
  smtp: FakeSmtp
  /** Where browsers go: passkeys want a name, not an address. */
  url: string
  links: string[]
}

/** Three replicas of a fresh install, started at once, with mail and a provider. The proxy stands for one that is trusted. */
const test = base.override({ clusterOptions: { replicas: 0, env: {} } }).extend<{ $file: { install: Install } }>({
  install: [
    async ({ started: { cluster } }, use) => {
      const [oidc, smtp] = [await startFakeOidc(), await startFakeSmtp()]
      const url = cluster.proxy.url.replace('127.0.0.1', 'localhost')
      const env = {
        ...{ PUBLIC_WEB_URL: url, TRUSTED_PROXY: '127.0.0.1' },
        ...{ SMTP_URL: smtp.url, MAIL_FROM: 'Lobu <lobu@example.com>' },
        ...{ OIDC_ISSUER: oidc.issuer, OIDC_NAME: 'Fake', OIDC_ROLE: 'member' },
        ...{ OIDC_CLIENT_ID: oidc.client.clientId, OIDC_CLIENT_SECRET: oidc.client.clientSecret },
      }
      const replicas = await Promise.all([1, 2, 3].map(() => cluster.add(env)))
      const links = await Promise.all(
        replicas.map(async (replica) => {
          const line = await until(() => replica.lines().find(({ link }) => link), 'the setup link is in the log')
          return String(line.link)
        }),
      )
      await use({ oidc, smtp, url, links })
      await smtp.stop()
      await oidc.stop()
    },
    { scope: 'file' },
  ],
})

/** Each browser has an address of its own, so that what one tries does not count for another. */
let visitors = 0
const fromElsewhere = () => ({ extraHTTPHeaders: { 'x-forwarded-for': `203.0.113.${++visitors}` } })

async function signIn(page: Page, url: string, { email, password } = OWNER) {
  await page.goto(`${url}/sign-in`)
  await enterPassword(page, { email, password })
}

async function enterPassword(page: Page, { email, password } = OWNER) {
  const form = page.locator('#password-form')
  await form.getByLabel('Email').fill(email)
  await form.getByLabel('Password', { exact: true }).fill(password)
  await form.getByRole('button', { name: 'Sign in', exact: true }).click()
}

async function cookieOf(context: BrowserContext): Promise<string> {
  return (await context.cookies()).map(({ name, value }) => `${name}=${value}`).join('; ')
}

/** What each replica says to a request with this cookie. */
function askAll(cluster: Cluster, cookie: string, more: Record<string, string> = {}) {
  return Promise.all(
    cluster.replicas.map(async ({ url }) => {
      const answer = await cluster.call('GET', '/api/v1/agents', { at: url, token: null, headers: { cookie, ...more } })
      return answer.status
    }),
  )
}

describe.skipIf(chromium === null)('people', { timeout: 120_000 }, () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await launchBrowser(chromium ?? '')
  })
  afterAll(() => browser.close())

  test('the first person becomes the owner by a link from the log, once, and the keys of the install are theirs', async ({
    cluster,
    install: { url, links },
  }) => {
    expect(new Set(links).size).toBe(3)
    for (const link of links) expect(link).toMatch(new RegExp(`^${url}/setup#token=[\\w-]{43}$`))
    const before = await cluster.database.sql`select id from users`
    const page = await openPage(browser, url, fromElsewhere())
    await page.goto(links[1]!)
    expect(page.url()).toBe(`${url}/setup`)
    await page.getByLabel('Name').fill('Ada')
    await page.getByLabel('Email').fill(OWNER.email)
    await page.getByLabel('Password').fill(OWNER.password)
    await page.getByRole('button', { name: 'Become the owner' }).click()
    await page.waitForURL(`${url}/account`)
    await page.getByText(OWNER.email).waitFor()

    expect(await cluster.database.sql`select id, email from users`).toEqual([{ ...before[0], email: OWNER.email }])
    expect((await cluster.call('GET', '/api/v1/agents')).status).toBe(200)
    const late = {
      token: links[2]!.split('token=')[1],
      name: 'Eve',
      email: 'eve@example.com',
      password: OWNER.password,
    }
    for (const token of [late.token, links[1]!.split('token=')[1]]) {
      expect(await cluster.call('POST', '/setup', { token: null, body: { ...late, token } })).toMatchObject({
        status: 409,
        body: { code: 'conflict' },
      })
    }
  })

  test('signing out on one replica is refused on the others at once, and so is a changed password', async ({
    cluster,
    install: { url },
  }) => {
    const [page, other] = [await openPage(browser, url, fromElsewhere()), await openPage(browser, url, fromElsewhere())]
    for (const one of [page, other]) {
      await signIn(one, url)
      await one.waitForURL(`${url}/account`)
    }
    const [cookie, otherCookie] = [await cookieOf(page.context()), await cookieOf(other.context())]
    expect(await askAll(cluster, cookie)).toEqual([200, 200, 200])
    expect(await askAll(cluster, otherCookie)).toEqual([200, 200, 200])

    await page.getByLabel('Current password').fill(OWNER.password)
    await page.getByLabel('New password').fill(`${OWNER.password}!`)
    await page.getByRole('button', { name: 'Change the password' }).click()
    await page.getByText('Your password is changed.').waitFor()
    OWNER.password = `${OWNER.password}!`
    expect(await askAll(cluster, otherCookie)).toEqual([401, 401, 401])

    const fresh = await cookieOf(page.context())
    expect(await askAll(cluster, fresh)).toEqual([200, 200, 200])
    const left = page.waitForURL(`${url}/sign-in`)
    await page.getByRole('button', { name: 'Sign out', exact: true }).click()
    await left
    expect(await askAll(cluster, fresh)).toEqual([401, 401, 401])
  })

  test('one organization is chosen by its name, and a page of another origin changes nothing', async ({
    cluster,
    install: { url },
  }) => {
    const page = await openPage(browser, url, fromElsewhere())
    await signIn(page, url)
    await page.waitForURL(`${url}/account`)
    const cookie = await cookieOf(page.context())
    await cluster.database.sql`insert into organizations (id, slug, name) values ('org_b', 'others', 'Others')`
    expect(await askAll(cluster, cookie, { 'x-lobu-org': 'default' })).toEqual([200, 200, 200])
    expect(await askAll(cluster, cookie, { 'x-lobu-org': 'others' })).toEqual([403, 403, 403])
    expect(await askAll(cluster, cookie, { 'x-lobu-org': 'nobody' })).toEqual([404, 404, 404])

    const post = (headers: Record<string, string>) =>
      cluster.call('POST', '/api/v1/agents', { token: null, body: {}, headers: { cookie, ...headers } })
    const refused = { status: 403, body: { success: false, code: 'cross_origin' } }
    expect(await post({ origin: 'https://evil.example' })).toMatchObject(refused)
    expect(await post({ origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' })).toMatchObject(refused)
    expect(await post({ origin: 'https://evil.example', 'x-forwarded-host': 'evil.example' })).toMatchObject(refused)
    expect(await post({})).toMatchObject(refused)
    expect(await post({ origin: url })).toMatchObject({ status: 201 })
  })

  test('a person whom the provider knows joins, and is back here signed in', async ({ cluster, install }) => {
    const { url, oidc } = install
    const page = await openPage(browser, url, fromElsewhere())
    oidc.signInAs({ sub: 'grace', email: 'grace@example.com', name: 'Grace' })
    // Leaving for the provider is what this is about.
    page.removeAllListeners('request')
    await page.goto(`${url}/sign-in`)
    await page.getByRole('button', { name: 'Continue with Fake' }).click()
    await page.waitForURL(`${url}/account`)
    await page.getByText('grace@example.com').waitFor()
    expect(await askAll(cluster, await cookieOf(page.context()))).toEqual([200, 200, 200])
    const members = await cluster.database.sql`
      select m.role from members m join users u on u.id = m.user_id where u.email = 'grace@example.com'`
    expect(members).toEqual([{ role: 'member' }])
  })

  test('an invited person makes an account with the link and is a member; the link works once', async ({
    cluster,
    install: { url },
  }) => {
    const token = 'an-invitation-of-the-tests-0123456789'
    await cluster.database.sql`
      insert into invitations (organization_id, id, role, token_hash, expires_at, invited_by)
      select o.id, 'inv_1', 'member', encode(sha256(${token}::bytea), 'hex'), now() + interval '1 day', m.user_id
      from organizations o join members m on m.organization_id = o.id and m.role = 'owner' where o.slug = 'default'`
    const page = await openPage(browser, url, fromElsewhere())
    await page.goto(`${url}/invite#token=${token}`)
    await page.getByText('Default organization').waitFor()
    expect(page.url()).toBe(`${url}/invite`)
    await page.getByLabel('Name').fill('Linus')
    await page.getByLabel('Email').fill('linus@example.com')
    await page.getByLabel('Password').fill(OWNER.password)
    await page.getByRole('button', { name: 'Make an account and join' }).click()
    await page.waitForURL(`${url}/account`)
    await page.getByText('linus@example.com').waitFor()
    expect(await askAll(cluster, await cookieOf(page.context()))).toEqual([200, 200, 200])

    const late = await openPage(browser, url, fromElsewhere())
    await late.goto(`${url}/invite#token=${token}`)
    await late.getByText(/unknown, used/).waitFor()
  })

  test('a forgotten password is replaced by a link from the mail, which ends all sessions', async ({
    cluster,
    install: { url, smtp },
  }) => {
    const person = { email: 'linus@example.com', password: OWNER.password }
    const signedIn = await openPage(browser, url, fromElsewhere())
    await signIn(signedIn, url, person)
    await signedIn.waitForURL(`${url}/account`)
    const cookie = await cookieOf(signedIn.context())

    const page = await openPage(browser, url, fromElsewhere())
    await page.goto(`${url}/sign-in`)
    await page.getByRole('link', { name: 'Forgot the password?' }).click()
    await page.getByLabel('Email').fill(person.email)
    await page.getByRole('button', { name: 'Send the link' }).click()
    const mail = await until(() => smtp.mails.find(({ text }) => text.includes('/reset#token=')), 'the mail has come')
    await page.goto(/http\S+#token=\S+/.exec(mail.text)![0])
    const form = page.locator('#reset-form')
    await form.getByLabel('Password').fill('another horse battery')
    await form.getByRole('button', { name: 'Change the password' }).click()
    await page.getByText('Your password is changed.').waitFor()
    expect(await askAll(cluster, cookie)).toEqual([401, 401, 401])
    await signIn(page, url, { ...person, password: 'another horse battery' })
    await page.waitForURL(`${url}/account`)
  })

  test('a link by mail signs in when its button is pressed, once', async ({ install: { url, smtp } }) => {
    const page = await openPage(browser, url, fromElsewhere())
    await page.goto(`${url}/sign-in`)
    await page.locator('#email').fill('linus@example.com')
    await page.getByRole('button', { name: 'Send me a link by mail' }).click()
    const link = await linkTo(smtp, 'linus@example.com')
    for (const expected of [`${url}/account`, /sign-in\?error=INVALID_TOKEN/]) {
      const fresh = await openPage(browser, url, fromElsewhere())
      await fresh.goto(link)
      await fresh.getByRole('button', { name: 'Sign in with the link' }).click()
      await fresh.waitForURL(expected)
    }
  })

  test('a passkey is added and signs in without a password', async ({ install: { url } }) => {
    const page = await openPage(browser, url, fromElsewhere())
    const devtools = await page.context().newCDPSession(page)
    await devtools.send('WebAuthn.enable')
    await devtools.send('WebAuthn.addVirtualAuthenticator', {
      options: {
        ...{ protocol: 'ctap2', transport: 'internal', hasResidentKey: true, hasUserVerification: true },
        ...{ isUserVerified: true, automaticPresenceSimulation: true },
      },
    })
    await signIn(page, url)
    await page.waitForURL(`${url}/account`)
    await page.getByRole('button', { name: 'Add a passkey' }).click()
    await page.getByText('The passkey is added.').waitFor()
    const left = page.waitForURL(`${url}/sign-in`)
    await page.getByRole('button', { name: 'Sign out', exact: true }).click()
    await left
    await page.getByRole('button', { name: 'Use a passkey' }).click()
    await page.waitForURL(`${url}/account`)
    await page.getByText(OWNER.email).waitFor()
  })

  test.for([
    ['/api/docs', '/api/docs'],
    ['https://evil.example/', '/account'],
    ['//evil.example/', '/account'],
    ['/\\evil.example', '/account'],
    ['javascript:alert(1)', '/account'],
  ] as const)('after signing in with ?next=%s the person is at %s', async ([next, landed], { install: { url } }) => {
    const page = await openPage(browser, url, fromElsewhere())
    await page.goto(`${url}/sign-in?next=${encodeURIComponent(next)}`)
    await enterPassword(page)
    await page.waitForURL(url + landed)
  })

  test('with two factors neither a password nor a link by mail is enough', async ({
    cluster,
    install: { url, smtp },
  }) => {
    const page = await openPage(browser, url, fromElsewhere())
    await signIn(page, url)
    await page.waitForURL(`${url}/account`)
    const section = page.getByRole('region', { name: 'Two-factor sign-in' })
    await section.getByLabel('Password').fill(OWNER.password)
    await section.getByRole('button', { name: 'Turn on' }).click()
    await section.getByLabel('Code').waitFor()
    const secret = (await page.locator('#factor-secret').textContent()) ?? ''
    const backup = ((await page.locator('#factor-codes').textContent()) ?? '').split('\n')[0]!
    await section.getByLabel('Code').fill(oneTimeCode(secret))
    await section.getByRole('button', { name: 'Turn on' }).last().click()
    await page.getByText('Two-factor sign-in is on.').waitFor()

    for (const code of [() => oneTimeCode(secret), () => backup]) {
      const fresh = await openPage(browser, url, fromElsewhere())
      await signIn(fresh, url)
      await fresh.getByLabel('Code').waitFor()
      expect(await askAll(cluster, await cookieOf(fresh.context()))).toEqual([401, 401, 401])
      await fresh.getByLabel('Code').fill(code())
      await fresh.getByRole('button', { name: 'Continue' }).click()
      await fresh.waitForURL(`${url}/account`)
    }

    const asking = await openPage(browser, url, fromElsewhere())
    await asking.goto(`${url}/sign-in?next=/account%3Fby=link`)
    await asking.locator('#email').fill(OWNER.email)
    await asking.getByRole('button', { name: 'Send me a link by mail' }).click()
    const link = await linkTo(smtp, OWNER.email)
    const opened = await openPage(browser, url, fromElsewhere())
    await opened.goto(link.replace('/sign-in#', '/sign-in?next=/account%3Fby=link#'))
    await opened.getByRole('button', { name: 'Sign in with the link' }).click()
    await opened.getByLabel('Code').waitFor()
    expect(await askAll(cluster, await cookieOf(opened.context()))).toEqual([401, 401, 401])
    await opened.getByLabel('Code').fill(oneTimeCode(secret))
    await opened.getByRole('button', { name: 'Continue' }).click()
    await opened.waitForURL(`${url}/account?by=link`)
    expect(await askAll(cluster, await cookieOf(opened.context()))).toEqual([200, 200, 200])
  })
})

async function linkTo(smtp: { mails: { to: string[]; text: string }[] }, email: string): Promise<string> {
  const isIt = ({ to, text }: { to: string[]; text: string }) => to.includes(email) && text.includes('#link=')
  const mail = await until(() => smtp.mails.find(isIt), 'the mail with the link has come')
  return /http\S+#link=\S+/.exec(mail.text)![0]
}

test('a limit is one for all replicas, and for who really sends: three tries, whatever a stranger writes', async ({
  cluster,
  install: { url },
}) => {
  const attempt = async (index: number) => {
    const { status, headers } = await cluster.call('POST', '/api/auth/sign-in/email', {
      at: cluster.replicas[index % 3]!.url,
      ...{ token: null, body: { email: 'nobody@example.com', password: 'a guess at a password' } },
      // The last is what the trusted proxy wrote; what stands before came from outside.
      headers: { origin: url, 'x-forwarded-for': `198.51.100.${index}, 203.0.113.250` },
    })
    return { status, wait: headers['retry-after'] }
  }
  const answers = await Promise.all(Array.from({ length: 12 }, (_, index) => attempt(index)))
  const statuses = answers.map(({ status }) => status)
  expect(statuses.filter((status) => status === 401)).toHaveLength(3)
  expect(statuses.filter((status) => status === 429)).toHaveLength(9)
  for (const { wait } of answers.filter(({ status }) => status === 429)) expect(Number(wait)).toBeGreaterThan(0)
})

test('errors of better-auth are JSON in our form, unknown paths too', async ({ cluster }) => {
  const unknown = await cluster.call('GET', '/api/auth/nothing', { token: null })
  expect(unknown).toMatchObject({ status: 404, body: { code: 'not_found', error: expect.any(String) } })
  const malformed = await cluster.call('POST', '/api/auth/sign-in/email', {
    ...{ token: null, raw: '{', headers: { 'content-type': 'application/json' } },
  })
  expect(malformed.body).toMatchObject({ error: expect.any(String), code: expect.stringMatching(/^[a-z_]+$/) })
  expect(malformed.status).toBeGreaterThanOrEqual(400)
  const large = { email: 'x'.repeat(70_000) }
  expect(await cluster.call('POST', '/api/auth/sign-in/email', { token: null, body: large })).toMatchObject({
    status: 413,
    body: { code: 'payload_too_large' },
  })
})

test('what is wrong with the public address is said in the log and by readiness', async ({ cluster }) => {
  const replica = await startGateway({ ...cluster.env, PUBLIC_WEB_URL: 'http://lobu.test' })
  try {
    await replica.ready()
    expect(replica.lines().some(({ level, msg }) => level === 'error' && msg?.startsWith('PUBLIC_WEB_URL'))).toBe(true)
    const { body } = await cluster.call('GET', '/health/ready', { at: replica.url, token: null })
    expect(body).toMatchObject({
      subsystems: { 'sign-in': { detail: expect.stringMatching(/^PUBLIC_WEB_URL is not https/) } },
    })
  } finally {
    await replica.destroy()
  }
})

test('no secret, password, cookie or link of a person is in a log', async ({ cluster, install: { links } }) => {
  const logs = cluster.replicas.map((replica) => replica.stdout() + replica.stderr()).join('\n')
  for (const secret of [...Object.values(SECRETS), 'horse battery', 'session_token', '#link=', 'code_verifier']) {
    expect(logs).not.toContain(secret)
  }
  // The setup link is there once for each start: it is meant for whoever reads the log.
  expect(logs.split('/setup#token=')).toHaveLength(links.length + 1)
})

/** https://www.rfc-editor.org/rfc/rfc6238 */
function oneTimeCode(secret: string): string {
  const bits = [...secret].map((char) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(char).toString(2).padStart(5, '0'))
  const bytes = bits.join('').match(/.{8}/g) ?? []
  const counter = Buffer.alloc(8)
  counter.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000)))
  const key = Buffer.from(bytes.map((byte) => Number.parseInt(byte, 2)))
  const digest = createHmac('sha1', key).update(counter).digest()
  const at = digest.at(-1)! & 15
  return String((digest.readUInt32BE(at) & 0x7fffffff) % 1_000_000).padStart(6, '0')
}
