import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { hashPassword } from 'better-auth/crypto'
import { createLocalJWKSet, type JSONWebKeySet, jwtVerify } from 'jose'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, onTestFinished } from 'vitest'
import { findChromium, launchBrowser } from '../support/browser.ts'
import { type Answer, type Cluster, SECRETS, test } from '../support/cluster.ts'
import { until } from '../support/gateway.ts'
import { makePkce, type SignedIn, signInBySql } from '../support/oauth.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('the gateway needs it')

const FORM = { 'content-type': 'application/x-www-form-urlencoded' }
const REDIRECT = 'http://127.0.0.1:49152/callback'
const DEVICE_GRANT = 'urn:ietf:params:oauth:grant-type:device_code'

/** A member of the cluster's first organization, signed in with a browser. */
async function signIn({ database: { sql } }: Cluster, role = 'member') {
  const person = await signInBySql(sql, { secret: SECRETS.BETTER_AUTH_SECRET })
  await sql`
    insert into members (organization_id, user_id, role)
    select id, ${person.userId}, ${role} from organizations where slug = 'default'`
  return person
}

/** A form sent by a program; with a cookie, by a page of the gateway in a person's browser. */
function postForm(cluster: Cluster, path: string, fields: Record<string, string>, cookie?: string) {
  const headers = { ...FORM, ...(cookie ? { cookie, origin: cluster.proxy.url } : {}) }
  return cluster.call('POST', path, { token: null, raw: new URLSearchParams(fields).toString(), headers })
}

const visit = (cluster: Cluster, path: string, person?: SignedIn, at?: string) =>
  cluster.call('GET', path, { token: null, ...(at ? { at } : {}), headers: person ? { cookie: person.cookie } : {} })

const locationOf = (answer: Answer) => new URL(String(answer.headers.location), 'http://gateway.invalid')

/** What a page's form sends besides the decision. */
function hiddenFields({ text }: Answer): Record<string, string> {
  const found = text.matchAll(/<input type="hidden" name="(\w+)" value="([^"]*)">/g)
  return Object.fromEntries([...found].map(([, name, value]) => [name!, value!.replaceAll('&amp;', '&')]))
}

interface Tokens {
  access_token: string
  refresh_token: string
  id_token?: string
}

/** The whole way of a client: register, ask, be approved, exchange. Each request goes to whatever replica. */
async function connect(cluster: Cluster, person: SignedIn, scope?: string) {
  const metadata = { client_name: 'Test client', redirect_uris: [REDIRECT] }
  const registered = await cluster.call('POST', '/oauth/register', { token: null, body: metadata })
  expect(registered.status, registered.text).toBe(201)
  const clientId = registered.body.client_id as string
  const { verifier, challenge } = makePkce()
  const query = new URLSearchParams({
    ...{
      response_type: 'code',
      client_id: clientId,
      redirect_uri: REDIRECT,
      state: 'xyz',
      resource: cluster.proxy.url,
    },
    ...{ code_challenge: challenge, code_challenge_method: 'S256', ...(scope ? { scope } : {}) },
  })
  const asked = await visit(cluster, `/oauth/authorize?${query}`, person)
  const consent = await visit(cluster, String(asked.headers.location), person)
  expect(consent.text).toContain('Test client')
  const decision = { ...hiddenFields(consent), decision: 'approve' }
  const back = locationOf(await postForm(cluster, '/consent', decision, person.cookie))
  expect(back.href).toMatch(/^http:\/\/127\.0\.0\.1:49152\/callback\?/)
  expect(back.searchParams.get('state')).toBe('xyz')
  expect(back.searchParams.get('iss')).toBe(cluster.proxy.url)
  const exchanged = await postForm(cluster, '/oauth/token', {
    ...{ grant_type: 'authorization_code', client_id: clientId, code: back.searchParams.get('code') ?? '' },
    ...{ redirect_uri: REDIRECT, code_verifier: verifier },
  })
  expect(exchanged.status, exchanged.text).toBe(200)
  const refresh = (refresh_token: string) =>
    postForm(cluster, '/oauth/token', { grant_type: 'refresh_token', client_id: clientId, refresh_token })
  return { clientId, tokens: exchanged.body as unknown as Tokens, refresh }
}

/** What each replica says to a token. */
async function askAll(cluster: Cluster, token: string): Promise<number[]> {
  const answers = await Promise.all(
    cluster.replicas.map(({ url }) => cluster.call('GET', '/api/v1/agents', { token, at: url })),
  )
  return answers.map(({ status }) => status)
}

test('a client finds the server by the refusal, registers, is approved, and works on every replica until it is revoked', async ({
  cluster,
}) => {
  const refused = await cluster.call('GET', '/api/v1/agents', { token: null })
  const [, link] = /resource_metadata="([^"]+)"/.exec(String(refused.headers['www-authenticate'])) ?? []
  const resource = await cluster.call('GET', new URL(link!).pathname, { token: null })
  expect(resource.body).toMatchObject({ resource: cluster.proxy.url, authorization_servers: [cluster.proxy.url] })
  for (const path of ['oauth-authorization-server', 'oauth-authorization-server/api/auth', 'openid-configuration']) {
    const { body } = await cluster.call('GET', `/.well-known/${path}`, { token: null })
    expect(body).toMatchObject({ issuer: cluster.proxy.url, code_challenge_methods_supported: ['S256'] })
  }
  const mcp = await cluster.call('GET', '/.well-known/oauth-protected-resource/mcp/acme', { token: null })
  expect(mcp.body.resource).toBe(`${cluster.proxy.url}/mcp/acme`)

  const person = await signIn(cluster)
  const { clientId, tokens, refresh } = await connect(cluster, person)
  expect(await askAll(cluster, tokens.access_token)).toEqual([200, 200, 200])
  const info = await cluster.call('GET', '/oauth/userinfo', { token: tokens.access_token })
  expect(info.body).toMatchObject({ sub: person.userId, email: person.email, organization_slug: 'default' })
  const conversation = await cluster.open({}, { token: tokens.access_token })
  const follower = await conversation.follow()
  const { messageId } = await conversation.send('/echo by OAuth')
  await follower.completed(messageId)
  await follower.stop()

  const next = (await refresh(tokens.refresh_token)).body as unknown as Tokens
  expect(await askAll(cluster, next.access_token)).toEqual([200, 200, 200])
  const revoked = await postForm(cluster, '/oauth/revoke', { token: next.refresh_token, client_id: clientId })
  expect(revoked.status).toBe(200)
  // Whoever was told that it is revoked is right, whatever replica is asked.
  for (const { access_token } of [tokens, next]) expect(await askAll(cluster, access_token)).toEqual([401, 401, 401])
  expect((await refresh(next.refresh_token)).status).toBe(400)
  expect((await cluster.call('GET', '/oauth/userinfo', { token: next.access_token })).status).toBe(401)
})

test('an old refresh token that comes again ends all that came of it, on every replica', async ({ cluster }) => {
  const { tokens, refresh } = await connect(cluster, await signIn(cluster))
  const answers = await Promise.all(Array.from({ length: 20 }, () => refresh(tokens.refresh_token)))
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200))
  expect(new Set(answers.map(({ body }) => body.refresh_token)).size).toBe(1)
  const next = answers[0]!.body as unknown as Tokens
  expect(await askAll(cluster, next.access_token)).toEqual([200, 200, 200])

  await cluster.database.sql`
    update oauth_refresh_tokens set rotation_replay_expires_at = now() where rotated_at is not null`
  expect((await refresh(tokens.refresh_token)).body.error).toBe('invalid_grant')
  expect(await askAll(cluster, next.access_token)).toEqual([401, 401, 401])
  expect((await refresh(next.refresh_token)).status).toBe(400)
})

test('a person sees what they let in, and takes it back from every replica at once', async ({ cluster }) => {
  const person = await signIn(cluster)
  const { clientId, tokens, refresh } = await connect(cluster, person)
  const headers = { cookie: person.cookie, origin: cluster.proxy.url }
  const listed = await cluster.call('GET', '/api/account/apps', { token: null, headers })
  expect(listed.body.apps).toMatchObject([{ clientId, name: 'Test client' }])
  const path = `/api/account/apps/${clientId}`
  for (const token of [tokens.access_token, cluster.key]) {
    expect((await cluster.call('DELETE', path, { token })).status).toBe(403)
  }
  expect((await cluster.call('DELETE', path, { token: null, headers: { cookie: person.cookie } })).status).toBe(403)
  expect(await askAll(cluster, tokens.access_token)).toEqual([200, 200, 200])
  expect((await cluster.call('DELETE', path, { token: null, headers })).status).toBe(204)
  expect(await askAll(cluster, tokens.access_token)).toEqual([401, 401, 401])
  expect((await refresh(tokens.refresh_token)).status).toBe(400)
})

test('an ID token is signed by the key that the discovery document leads to', async ({ cluster }) => {
  const person = await signIn(cluster)
  const { clientId, tokens } = await connect(cluster, person)
  const { body: discovery } = await cluster.call('GET', '/.well-known/openid-configuration', { token: null })
  const keys = await cluster.call('GET', new URL(String(discovery.jwks_uri)).pathname, { token: null })
  const { payload } = await jwtVerify(tokens.id_token!, createLocalJWKSet(keys.body as unknown as JSONWebKeySet), {
    ...{ issuer: String(discovery.issuer), audience: clientId, algorithms: ['EdDSA'] },
  })
  expect(payload.sub).toBe(person.userId)
})

test('a disabled client and a removed member are refused', async ({ cluster }) => {
  const person = await signIn(cluster)
  const { clientId, tokens } = await connect(cluster, person)
  const { sql } = cluster.database
  const isRefused = async () => (await askAll(cluster, tokens.access_token)).every((status) => status >= 401)
  await sql`update oauth_clients set disabled = true where client_id = ${clientId}`
  await until(isRefused, 'the client is refused')
  await sql`update oauth_clients set disabled = false where client_id = ${clientId}`
  expect(await askAll(cluster, tokens.access_token)).toEqual([200, 200, 200])
  await sql`delete from members where user_id = ${person.userId}`
  await until(isRefused, 'the person is refused')
})

test('tokens of other kinds open nothing, and scopes hold', async ({ cluster }) => {
  const person = await signIn(cluster, 'owner')
  const { tokens } = await connect(cluster, person, 'openid offline_access agents:read')
  const made = await cluster.call('POST', '/api/default/agents', {
    token: tokens.access_token,
    body: { agentId: 'by-oauth', name: 'x' },
  })
  expect(made).toMatchObject({ status: 403, body: { code: 'forbidden' } })
  expect((await cluster.call('POST', '/api/v1/agents', { token: tokens.access_token, body: {} })).status).toBe(403)
  const foreign = { token: tokens.access_token, headers: { 'x-lobu-org': 'nobody' } }
  expect((await cluster.call('GET', '/api/v1/agents', foreign)).status).toBe(404)

  const { token: session } = await cluster.open()
  const bearers = [tokens.id_token!, tokens.refresh_token, session, cluster.key, `lobuat_${cluster.key}`, 'lobuat_x']
  for (const token of bearers) {
    expect((await cluster.call('GET', '/oauth/userinfo', { token })).status, token.slice(0, 12)).toBe(401)
    if (token !== cluster.key && token !== session) {
      expect((await cluster.call('GET', '/api/v1/agents', { token })).status, token.slice(0, 12)).toBe(401)
    }
  }
})

test('pages do nothing for a stranger, another page, or a place that was not registered', async ({ cluster }) => {
  const person = await signIn(cluster)
  for (const path of [
    '/device?user_code=ABCD2345',
    '/consent?client_id=lobu-cli&redirect_uri=https%3A%2F%2Fevil.example',
  ]) {
    const answer = await visit(cluster, path)
    expect(answer.status).toBe(302)
    expect(locationOf(answer).pathname).toBe('/sign-in')
    expect(locationOf(answer).searchParams.get('next')).toBe(path)
  }
  for (const path of ['/device', '/consent']) {
    for (const origin of ['https://evil.example', 'null', undefined]) {
      const headers: Record<string, string> = { ...FORM, cookie: person.cookie, ...(origin ? { origin } : {}) }
      const raw = 'decision=approve&user_code=ABCD2345&oauth_query=x'
      expect((await cluster.call('POST', path, { token: null, raw, headers })).status).toBe(403)
    }
  }
  const evil = new URLSearchParams({
    ...{ response_type: 'code', client_id: 'lobu-cli', redirect_uri: 'https://evil.example/callback' },
    ...{ code_challenge: makePkce().challenge, code_challenge_method: 'S256' },
  })
  const answer = await visit(cluster, `/oauth/authorize?${evil}`, person)
  expect(answer.status).toBe(400)
  expect(answer.headers.location).toBeUndefined()
  const unsigned = { oauth_query: evil.toString(), decision: 'deny' }
  const denied = await postForm(cluster, '/consent', unsigned, person.cookie)
  expect(denied.status).toBe(400)
  expect(denied.headers.location).toBeUndefined()
})

test('what is not JSON, not a form or far too much is refused in words, and closed routes stay closed', async ({
  cluster,
}) => {
  const json = { 'content-type': 'application/json' }
  const bad: [string, Record<string, string>, string, number][] = [
    ['/oauth/register', json, '{"redirect_uris":', 400],
    ['/oauth/register', json, JSON.stringify({ client_name: 'x'.repeat(17_000) }), 413],
    ['/oauth/register', json, JSON.stringify({ redirect_uris: 'x' }), 400],
    ['/oauth/token', json, '{}', 415],
    ['/oauth/token', FORM, `x=${'y'.repeat(17_000)}`, 413],
    ['/oauth/token', FORM, 'grant_type=password&username=a&password=b&client_id=lobu-cli', 400],
    ['/oauth/token', FORM, 'grant_type=client_credentials&client_id=lobu-cli', 400],
    ['/oauth/token', FORM, 'client_id=a&client_id=b', 400],
    ['/oauth/device', FORM, 'client_id=nobody', 400],
    ['/oauth/revoke', FORM, 'client_id=lobu-cli', 400],
  ]
  for (const [path, headers, raw, status] of bad) {
    const answer = await cluster.call('POST', path, { token: null, raw, headers })
    expect(answer.status, `${path} ${raw.slice(0, 60)} ${answer.text.slice(0, 200)}`).toBe(status)
    expect(answer.body.error).toBeTypeOf('string')
  }
  const person = await signIn(cluster)
  const headers = { cookie: person.cookie, origin: cluster.proxy.url, ...json }
  const closed = [
    ...['/token', '/device?user_code=ABCD2345', '/device/approve', '/device/deny', '/device/token'],
    ...['/oauth2/introspect', '/oauth2/userinfo', '/oauth2/delete-consent', '/oauth2/get-consents'],
  ]
  for (const path of closed) {
    for (const method of ['GET', 'POST']) {
      const body = method === 'POST' ? { raw: '{"userCode":"ABCD2345","id":"x"}' } : {}
      const answer = await cluster.call(method, `/api/auth${path}`, { token: null, headers, ...body })
      expect(answer.status, `${method} ${path}`).toBe(404)
    }
  }
  const client = { raw: JSON.stringify({ redirect_uris: [REDIRECT], skip_consent: true }), headers }
  const admin = await cluster.call('POST', '/api/auth/oauth2/create-client', { token: null, ...client })
  expect(admin.status).toBeGreaterThanOrEqual(401)

  const browser = { 'access-control-request-method': 'POST', origin: 'https://inspector.example' }
  const preflight = await cluster.call('OPTIONS', '/oauth/token', { token: null, headers: browser })
  expect(preflight.headers['access-control-allow-origin']).toBe('*')
  expect(preflight.headers['access-control-allow-credentials']).toBeUndefined()
})

const chromium = findChromium()

describe.skipIf(chromium === null)('in a browser', () => {
  let browser: Browser
  beforeAll(async () => {
    browser = await launchBrowser(chromium ?? '')
  })
  afterAll(() => browser.close())

  /** A page of a signed-in person; it may ask the gateway and the client's own address, and break no policy. */
  async function openAs(cluster: Cluster, person: SignedIn, clientOrigin = cluster.proxy.url): Promise<Page> {
    const context = await browser.newContext({ viewport: { width: 900, height: 700 } })
    const [name, value] = person.cookie.split('=') as [string, string]
    await context.addCookies([{ name, value, url: cluster.proxy.url, httpOnly: true, sameSite: 'Lax' }])
    const page = await context.newPage()
    const faults: string[] = []
    page.on('pageerror', (error) => faults.push(error.message))
    page.on('console', (message) => {
      if (message.type() === 'error' && !message.text().startsWith('Failed to load')) faults.push(message.text())
    })
    page.on('request', (request) => {
      const isKnown = [cluster.proxy.url, clientOrigin].some((origin) => request.url().startsWith(`${origin}/`))
      if (!isKnown && !request.url().startsWith('data:')) faults.push(request.url())
    })
    onTestFinished(async () => {
      await context.close()
      expect(faults).toEqual([])
    })
    return page
  }

  /** Kept where `LOBU_SCREENSHOTS` says, for a person to look at. */
  const shoot = async (page: Page, name: string) => {
    const folder = process.env.LOBU_SCREENSHOTS
    if (folder) await page.screenshot({ path: `${folder}/${name}.png` })
  }

  test('a person types the code of their device, sees what it asks for, and approves', async ({ cluster }) => {
    const person = await signIn(cluster)
    const { body } = await postForm(cluster, '/oauth/device', { client_id: 'lobu-cli' })
    const page = await openAs(cluster, person)
    await page.goto(String(body.verification_uri))
    await shoot(page, 'device-code')
    await page.getByLabel('Code').fill('WRONGONE')
    await page.getByRole('button', { name: 'Continue' }).click()
    await page.getByRole('alert').waitFor()
    await shoot(page, 'device-wrong')
    await page.getByLabel('Code').fill(String(body.user_code).toLowerCase())
    await page.getByRole('button', { name: 'Continue' }).click()
    await page.getByText('Open conversations, send messages').waitFor()
    expect(await page.getByRole('heading', { level: 2 }).textContent()).toBe('Let Lobu command line in?')
    await shoot(page, 'device')
    await page.getByRole('button', { name: 'Approve' }).click()
    await page.getByText('The device is connected').waitFor()
    await shoot(page, 'device-done')
    const fields = { grant_type: DEVICE_GRANT, client_id: 'lobu-cli', device_code: String(body.device_code) }
    const { access_token } = (await postForm(cluster, '/oauth/token', fields)).body as unknown as Tokens
    expect(await askAll(cluster, access_token)).toEqual([200, 200, 200])
  })

  test('a person consents, and the browser goes to the program that waits on their machine', async ({ cluster }) => {
    const person = await signIn(cluster)
    const { origin, arrived } = await listenAsClient()
    const page = await openAs(cluster, person, origin)
    const { challenge } = makePkce()
    const query = new URLSearchParams({
      ...{ response_type: 'code', client_id: 'lobu-cli', redirect_uri: `${origin}/callback`, state: '<b>' },
      ...{ code_challenge: challenge, code_challenge_method: 'S256' },
    })
    await page.goto(`${cluster.proxy.url}/oauth/authorize?${query}`)
    await page.getByText(`a program on this computer (${new URL(origin).host})`).waitFor()
    await shoot(page, 'consent')
    await page.emulateMedia({ colorScheme: 'dark' })
    await shoot(page, 'consent-dark')
    await page.getByRole('button', { name: 'Approve' }).click()
    const back = await arrived
    expect(back.pathname).toBe('/callback')
    expect(back.searchParams.get('code')).toBeTruthy()
    expect(back.searchParams.get('state')).toBe('<b>')
  })

  test('a stranger signs in first and comes back to the code of their device', async ({ cluster }) => {
    const person = await signIn(cluster)
    const password = 'correct horse battery'
    await cluster.database.sql`
      insert into user_accounts (id, account_id, provider_id, user_id, password)
      values (${person.userId}, ${person.userId}, 'credential', ${person.userId}, ${await hashPassword(password)})`
    const { body } = await postForm(cluster, '/oauth/device', { client_id: 'lobu-cli' })
    const page = await openAs(cluster, { ...person, cookie: 'nothing=x' })
    await page.goto(String(body.verification_uri_complete))
    await page.locator('#email').fill(person.email)
    await page.locator('#password').fill(password)
    await page.getByRole('button', { name: 'Sign in', exact: true }).click()
    await page.getByRole('button', { name: 'Approve' }).click()
    await page.getByText('The device is connected').waitFor()
  })

  test('what a client calls itself is text, whatever it says', async ({ cluster }) => {
    const person = await signIn(cluster)
    const client_name = '<img src=x onerror=alert(1)>"&'
    const metadata = { client_name, redirect_uris: ['com.example.app:/callback'] }
    const { body } = await cluster.call('POST', '/oauth/register', { token: null, body: metadata })
    const page = await openAs(cluster, person)
    const query = new URLSearchParams({
      ...{ response_type: 'code', client_id: String(body.client_id), redirect_uri: 'com.example.app:/callback' },
      ...{ code_challenge: makePkce().challenge, code_challenge_method: 'S256' },
    })
    await page.goto(`${cluster.proxy.url}/oauth/authorize?${query}`)
    expect(await page.getByRole('heading', { level: 2 }).textContent()).toBe(`Let ${client_name} in?`)
    expect(await page.locator('img').count()).toBe(0)
  })
})

/** A program on the person's machine that waits for its code. */
async function listenAsClient() {
  const arrival = Promise.withResolvers<URL>()
  const server = createServer((req, res) => {
    const url = new URL(req.url ?? '', 'http://127.0.0.1')
    if (url.pathname === '/callback') arrival.resolve(url)
    res.end('You can close this window.')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, arrived: arrival.promise }
}
