import { describe, expect, test } from 'vitest'
import { serve } from '../../../tests/support/http.ts'
import { crossOrigin } from './cross-origin.ts'

const OWN = 'https://lobu.test'
const TRUSTED = 'https://admin.test'
const EVIL = 'https://evil.test'
const COOKIE = '__Secure-lobu.session_token=x.y'

async function start(trustedOrigins: string[] = [TRUSTED]) {
  const { url } = await serve((app) => {
    app.use(crossOrigin({ publicUrl: `${OWN}/base`, trustedOrigins, sessionCookie: '__Secure-lobu.session_token' }))
    app.all('/thing', (c) => c.json({}))
  })
  return (method: string, headers: Record<string, string>) => fetch(`${url}/thing`, { method, headers })
}

describe('a change with the cookie of a person', () => {
  test.for([
    ['from our own page', { origin: OWN }, 200],
    ['from our own page, as browsers say it', { origin: OWN, 'sec-fetch-site': 'same-origin' }, 200],
    ['from a form of ours', { origin: 'null', 'sec-fetch-site': 'same-origin' }, 200],
    ['from a trusted origin', { origin: TRUSTED, 'sec-fetch-site': 'cross-site' }, 200],
    ['from elsewhere', { origin: EVIL, 'sec-fetch-site': 'cross-site' }, 403],
    ['from elsewhere, in an old browser', { origin: EVIL }, 403],
    ['from a neighbour', { origin: 'https://other.lobu.test', 'sec-fetch-site': 'same-site' }, 403],
    ['from a frame without an origin', { origin: 'null', 'sec-fetch-site': 'cross-site' }, 403],
    ['from nowhere', {}, 403],
    ['from plain http of our name', { origin: 'http://lobu.test' }, 403],
    ['with a forged host', { origin: EVIL, 'x-forwarded-host': 'evil.test' }, 403],
    ['with what a browser sends to a proxy', { origin: EVIL, authorization: 'Basic eDp5' }, 403],
    ['with a credential of its own', { origin: EVIL, authorization: 'Bearer lobu_x' }, 200],
  ] as [string, Record<string, string>, number][])('%s', async ([, headers, status]) => {
    const ask = await start()
    for (const method of ['POST', 'PUT', 'PATCH', 'DELETE']) {
      const answer = await ask(method, { cookie: COOKIE, ...headers })
      expect(answer.status, method).toBe(status)
      if (status === 403) expect(await answer.json()).toMatchObject({ code: 'cross_origin' })
    }
  })

  test('is what it is about: reading, or sending without the cookie, passes', async () => {
    const ask = await start()
    expect((await ask('GET', { cookie: COOKIE, origin: EVIL })).status).toBe(200)
    expect((await ask('POST', { cookie: 'other=1', origin: EVIL })).status).toBe(200)
  })
})

describe('answers', () => {
  const allowed = (answer: Response) => answer.headers.get('access-control-allow-origin')

  test('can be read by pages of trusted origins, and are asked for before', async () => {
    const ask = await start()
    const preflight = await ask('OPTIONS', { origin: TRUSTED, 'access-control-request-method': 'PATCH' })
    expect(preflight.status).toBe(204)
    expect(preflight.headers.get('access-control-allow-methods')).toContain('PATCH')
    const answer = await ask('GET', { origin: TRUSTED })
    expect(allowed(answer)).toBe(TRUSTED)
    expect(answer.headers.get('access-control-allow-credentials')).toBe('true')
    expect(answer.headers.get('vary')).toBe('Origin')
  })

  test('can be read by no others', async () => {
    for (const ask of [await start(), await start([])]) {
      for (const origin of [EVIL, 'null', `${TRUSTED}.evil.test`, 'http://admin.test']) {
        expect(allowed(await ask('GET', { origin }))).toBeNull()
        expect(allowed(await ask('OPTIONS', { origin, 'access-control-request-method': 'POST' }))).toBeNull()
      }
    }
  })
})
