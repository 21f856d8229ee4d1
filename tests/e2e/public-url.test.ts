import { expect, onTestFinished } from 'vitest'
import { type Cluster, test } from '../support/cluster.ts'
import { startFakeOidc } from '../support/fake-oidc.ts'
import { requireProc, until } from '../support/gateway.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('replicas share it')
requireProc()

test.override('clusterOptions', { replicas: 0, env: {} })

const FORM = { 'content-type': 'application/x-www-form-urlencoded' }
/** What a stranger may write into a request, whichever proxy is trusted. */
const SPOOFED = {
  host: 'evil.test',
  'x-forwarded-host': 'evil.test',
  'x-forwarded-proto': 'http',
  'x-forwarded-port': '1',
  'x-forwarded-prefix': '/evil',
  forwarded: 'for=evil.test;host=evil.test;proto=http',
  'x-original-url': 'https://evil.test/',
}

/** Every address of its own that the gateway gives to this kind of request, by what it is for. */
async function addressesOf(
  cluster: Cluster,
  at: string,
  headers: Record<string, string>,
): Promise<Record<string, unknown>> {
  const open = { at, token: null, headers }
  const own = { at, headers }
  const { body: organizations } = await cluster.call('GET', '/api/organizations', own)
  const [{ slug }] = organizations.organizations as [{ slug: string }]
  const opened = await cluster.call('POST', '/api/v1/agents', { ...own, body: { forceNew: true } })
  const invited = await cluster.call('POST', `/api/${slug}/invitations`, { ...own, body: { role: 'member' } })
  const begun = await cluster.call('POST', '/api/auth/sign-in/social', {
    ...open,
    body: { provider: 'oidc', callbackURL: '/account' },
  })
  const refused = await cluster.call('GET', '/api/v1/agents', open)
  const device = await cluster.call('POST', '/oauth/device', {
    ...open,
    ...{ raw: 'client_id=lobu-cli', headers: { ...headers, ...FORM } },
  })
  const documents = await Promise.all(
    ['oauth-authorization-server', 'openid-configuration', 'oauth-protected-resource'].map(
      async (name) => (await cluster.call('GET', `/.well-known/${name}`, open)).body,
    ),
  )
  const named = documents.flatMap((document, at) =>
    Object.entries(document).flatMap(([key, value]) =>
      [value].flat().flatMap((one) => (/^https?:/.test(String(one)) ? [[`${at} ${key}`, one] as const] : [])),
    ),
  )
  return {
    events: opened.body.sseUrl,
    messages: opened.body.messagesUrl,
    invitation: (invited.body.invitation as { url?: string } | undefined)?.url,
    callback: new URL(String(begun.body.url)).searchParams.get('redirect_uri'),
    challenge: /resource_metadata="([^"]+)"/.exec(String(refused.headers['www-authenticate']))?.[1],
    device: device.body.verification_uri,
    deviceWithCode: device.body.verification_uri_complete,
    ...Object.fromEntries(named),
  }
}

let visitors = 0
const FORMS: [string, string, string][] = [
  ['a host', 'https://lobu.test', 'https://lobu.test'],
  ['a port and a slash at its end', 'https://lobu.test:8443/', 'https://lobu.test:8443'],
  ['a base path and slashes', 'https://Lobu.test/some/base//', 'https://lobu.test/some/base'],
  ['plain http, which is said to be a fault', 'http://lobu.test:8080', 'http://lobu.test:8080'],
  ['nothing, which is said to be a fault', '', 'http://localhost:8787'],
]

// 59
test.for(FORMS)(
  'links, callbacks and documents go by PUBLIC_WEB_URL with %s, whatever a request says',
  async ([, given, base], { cluster }) => {
    const fake = await startFakeOidc()
    onTestFinished(fake.stop)
    const { clientId, clientSecret } = fake.client
    const gateway = await cluster.add({
      ...{ PUBLIC_WEB_URL: given, TRUSTED_PROXY: '*', OIDC_ISSUER: fake.issuer },
      ...{ OIDC_CLIENT_ID: clientId, OIDC_CLIENT_SECRET: clientSecret },
    })
    const setup = await until(() => gateway.lines().find(({ link }) => link), 'the setup link is in the log')
    expect(String(setup.link).startsWith(`${base}/setup#token=`), String(setup.link)).toBe(true)
    const isFault = !given.startsWith('https:')
    expect(gateway.lines().some(({ level, msg }) => level === 'error' && msg?.startsWith('PUBLIC_WEB_URL'))).toBe(
      isFault,
    )

    for (const spoofed of [{}, SPOOFED]) {
      // From an address of its own, so that what one tries does not count for another.
      const headers = { 'x-forwarded-for': `203.0.113.${++visitors}`, ...spoofed }
      const addresses = await addressesOf(cluster, gateway.url, headers)
      expect(Object.keys(addresses).length).toBeGreaterThan(15)
      for (const [name, address] of Object.entries(addresses)) {
        const isOwn = address === base || String(address).startsWith(`${base}/`)
        expect(isOwn, `${name}: ${address}`).toBe(true)
      }
      expect(addresses.callback).toBe(`${base}/api/auth/callback/oidc`)
    }
    await gateway.destroy()
  },
)
