import type { LookupAddress } from 'node:dns'
import { once } from 'node:events'
import http from 'node:http'
import net, { type AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { isPublicAddress } from './address.ts'
import type { OutboundRequest } from './contract.ts'
import { createGuardedFetch, createGuardedLookup, type GuardedFetchOptions, parseRetryAfter } from './guarded-fetch.ts'
import { checkUrl, parseAllowedHosts } from './url.ts'

/** Stands for everything that must not be reached, and counts who comes. */
const forbidden = { port: 0, connections: 0, server: net.createServer() }

beforeAll(async () => {
  forbidden.server.on('connection', (socket) => {
    forbidden.connections++
    socket.destroy()
  })
  forbidden.server.listen(0, '127.0.0.2')
  await once(forbidden.server, 'listening')
  forbidden.port = (forbidden.server.address() as AddressInfo).port
})
beforeEach(() => {
  forbidden.connections = 0
})
afterAll(() => void forbidden.server.close())

const NOT_PUBLIC = `
  0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.0.0.2 127.255.255.254
  169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 168.63.129.16 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1
  198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
  :: ::1 ::127.0.0.2 ::7f00:2 ::8.8.8.8 ::ffff:127.0.0.2 ::ffff:7f00:2 ::ffff:169.254.169.254 ::ffff:8.8.8.8
  ::ffff:0:127.0.0.2 64:ff9b::127.0.0.2 64:ff9b::a9fe:a9fe 64:ff9b::8.8.8.8 64:ff9b:1::1 100::1 2001::1
  2001:0:7f00:2::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:2:: 2002:a9fe:a9fe::1 2002:808:808:: 3fff::1
  4000::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 febf::1 fec0::1 ff02::1 ff0e::1`
  .trim()
  .split(/\s+/)

const PUBLIC = `1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 126.1.1.1 128.0.0.1 169.253.1.1 172.15.0.1 172.32.0.1
  192.167.1.1 198.17.1.1 198.20.1.1 223.1.1.1 2001:200::1 2001:4860:4860::8888 2606:4700::1111 2a00:1450::1`
  .trim()
  .split(/\s+/)

/** Hosts as an attacker writes them; all of them mean 127.0.0.2 or another address of this machine. */
const NOTATIONS = `
  127.0.0.2. 127.2 127.0.2 2130706434 0x7f000002 0x7f.0.0.2 0x7f.2 017700000002 0177.0.0.02 0177.0.0.0x2 %31%32%37.0.0.2
  127。0。0。2 127.0.0.2 ①②⑦.⓪.⓪.② 0 0x0 00000000 [::ffff:127.0.0.2] [0:0:0:0:0:ffff:7f00:0002] [::FFFF:7F00:2]
  localhost LOCALHOST localhost. localhost.. ⓛocalhost a.localhost`
  .trim()
  .split(/\s+/)

const post = (url: string): OutboundRequest => ({ url, method: 'POST', headers: {}, body: '{}' })
const inUrl = (address: string) => (net.isIPv6(address) ? `[${address}]` : address)

/** A name server in one function: answers are handed out in turn, the last one for ever. */
function stubResolve(...answers: (string[] | Error)[]) {
  const asked: string[] = []
  const resolve = async (hostname: string) => {
    asked.push(hostname)
    const answer = answers[Math.min(asked.length, answers.length) - 1]!
    if (answer instanceof Error) throw answer
    return answer
  }
  return { resolve, asked }
}

/** What a socket would be told to dial, or why it must not. */
const lookUp = (lookup: net.LookupFunction) =>
  new Promise<unknown>((resolve) =>
    lookup('name.example', { all: true }, (error, found) => resolve(error ?? (found as LookupAddress[]))),
  )

async function listen(server: http.Server, host = '127.0.0.1'): Promise<number> {
  server.listen(0, host)
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

function fetchWith(options: Partial<GuardedFetchOptions> = {}) {
  return createGuardedFetch({ allowedHosts: [], ...options })
}

/** Nothing in here dials, so that a mistake in the code under test sends nothing into other networks. */
describe('addresses that are not public', () => {
  test.each(NOT_PUBLIC)('%s is refused as a host', (address) => {
    expect(isPublicAddress(address)).toBe(false)
    expect(checkUrl(`http://${inUrl(address)}:8080/`, new Set())).toMatchObject({
      ok: false,
      reason: 'private_address',
    })
  })

  test.each(NOT_PUBLIC)('%s is refused as the address of a name, alone and among public ones', async (address) => {
    for (const answer of [[address], ['8.8.8.8', address], [address, '2606:4700::1111']]) {
      const { resolve, asked } = stubResolve(answer)
      expect(await lookUp(createGuardedLookup(resolve, false))).toMatchObject({ reason: 'private_address' })
      expect(asked).toHaveLength(1)
    }
  })

  test.each(PUBLIC)('%s is public', (address) => {
    expect(isPublicAddress(address)).toBe(true)
    expect(checkUrl(`https://${inUrl(address)}/`, new Set())).toMatchObject({ ok: true, allowed: false })
  })

  test.each(['fe80::1%eth0', '2606:4700::1111%eth0', '', 'example.com', '8.8.8', '8.8.8.8.8', '0x8.8.8.8'])(
    '"%s" is no public address',
    (address) => expect(isPublicAddress(address)).toBe(false),
  )
})

test.each(NOTATIONS)('%s is seen through, and nobody is dialled', async (host) => {
  const { resolve, asked } = stubResolve(['127.0.0.2'])
  const result = await fetchWith({ resolve })(post(`http://${host}:${forbidden.port}/`))
  expect(result).toMatchObject({ ok: false, reason: 'private_address' })
  expect(asked).toEqual([])
  expect(forbidden.connections).toBe(0)
})

test.each([['127.0.0.2'], ['::ffff:127.0.0.2'], ['127.0.0.2', '::1'], ['0.0.0.0']])(
  'a name that leads to %s is refused, and nobody is dialled',
  async (...answer) => {
    const { resolve, asked } = stubResolve(answer)
    const result = await fetchWith({ resolve })(post(`http://name.example:${forbidden.port}/`))
    expect(result).toMatchObject({ ok: false, reason: 'private_address' })
    expect(asked).toEqual(['name.example'])
    expect(forbidden.connections).toBe(0)
  },
)

test.each([
  'ftp://example.com/',
  'file:///etc/passwd',
  'javascript:alert(1)',
  'unix:/run/docker.sock',
  'http://',
  'http://./',
  '//example.com/',
  'example.com',
  '',
  'http://user@example.com/',
  'http://user:password@example.com/',
  'http://:password@example.com/',
  'http://[fe80::1%25lo]/',
  'http://[::1/',
  'http://256.256.256.256/',
  'http://1.2.3.4.5/',
  'http://0x100000000/',
  'http://a b/',
  'http://example.com:99999/',
])('%s cannot be called', async (url) => {
  const { resolve, asked } = stubResolve(['127.0.0.2'])
  expect(await fetchWith({ resolve })(post(url))).toMatchObject({ ok: false, reason: 'bad_url' })
  expect(asked).toEqual([])
})

describe('the look-up', () => {
  test('hands on the very answer that was checked, although the next one would differ', async () => {
    const { resolve, asked } = stubResolve(['8.8.8.8', '2606:4700::1111'], ['127.0.0.2'])
    expect(await lookUp(createGuardedLookup(resolve, false))).toEqual([
      { address: '8.8.8.8', family: 4 },
      { address: '2606:4700::1111', family: 6 },
    ])
    expect(asked).toHaveLength(1)
  })

  test('refuses a first answer that is private, although the next one would not be', async () => {
    const { resolve, asked } = stubResolve(['127.0.0.2'], ['8.8.8.8'])
    expect(await lookUp(createGuardedLookup(resolve, false))).toMatchObject({ reason: 'private_address' })
    expect(asked).toHaveLength(1)
  })

  test('happens once for a call, and the connection goes to what it found', async () => {
    const port = await listen(http.createServer((_req, res) => res.end()))
    const { resolve, asked } = stubResolve(['127.0.0.1'], ['127.0.0.2'])
    const result = await fetchWith({ resolve, allowedHosts: ['name.example'] })(post(`http://name.example.:${port}/`))
    expect(result).toEqual({ ok: true, status: 200 })
    expect(asked).toEqual(['name.example'])
    expect(forbidden.connections).toBe(0)
  })

  test('that finds nothing, or fails, is told as such', async () => {
    const failed = Object.assign(new Error('queryA ENOTFOUND name.example'), { code: 'ENOTFOUND' })
    for (const answer of [[], failed]) {
      const { resolve } = stubResolve(answer)
      expect(await fetchWith({ resolve })(post('http://name.example/'))).toMatchObject({ ok: false, reason: 'dns' })
    }
  })
})

describe('the list of allowed hosts', () => {
  test.each([
    ['10.1.2.3', 'http://10.1.2.3:8080/', true],
    ['10.1.2.3:8080', 'http://10.1.2.3:8080/', true],
    ['10.1.2.3:8080', 'http://10.1.2.3:8081/', false],
    ['10.1.2.3:80', 'http://10.1.2.3/', true],
    ['10.1.2.3:443', 'https://10.1.2.3/', true],
    ['10.1.2.3:80', 'https://10.1.2.3/', false],
    ['10.1.2.3', 'http://10.1.2.4/', false],
    ['Hooks.Internal', 'http://hooks.internal/', true],
    ['hooks.internal', 'http://a.hooks.internal/', false],
    ['hooks.internal', 'http://hooks.internal./', true],
    ['localhost', 'http://localhost:3000/', true],
    ['::1', 'http://[::1]:3000/', true],
    ['[::1]:3000', 'http://[0::1]:3000/', true],
    ['[::1]:3000', 'http://[::1]:3001/', false],
    [' , ', 'http://10.1.2.3/', false],
  ])('%s against %s: %s', (list, url, allowed) => {
    const checked = checkUrl(url, parseAllowedHosts(list.split(',')))
    expect(checked.ok && checked.allowed).toBe(allowed)
  })

  test.each(['*', '*.example.com', 'http://example.com', 'example.com/path', 'a:b', 'user@host', '10.0.0.0/8', '[::1'])(
    '%s is refused at the start',
    (entry) => expect(() => fetchWith({ allowedHosts: [entry] })).toThrow(entry),
  )
})

describe('a call', () => {
  test('says what it was given and nothing more', async () => {
    let seen: unknown
    const port = await listen(
      http.createServer(async (req, res) => {
        seen = { method: req.method, url: req.url, headers: req.headers, body: await text(req) }
        res.writeHead(202).end()
      }),
    )
    const result = await fetchWith({ allowedHosts: [`127.0.0.1:${port}`] })({
      url: `http://127.0.0.1:${port}/hook?a=1#part`,
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"ü":1}',
    })
    expect(result).toEqual({ ok: true, status: 202 })
    expect(seen).toEqual({
      method: 'POST',
      url: '/hook?a=1',
      headers: {
        host: `127.0.0.1:${port}`,
        connection: 'close',
        'content-type': 'application/json',
        'content-length': '8',
      },
      body: '{"ü":1}',
    })
  })

  test('does not follow a redirect', async () => {
    const location = `http://127.0.0.2:${forbidden.port}/`
    const port = await listen(http.createServer((_req, res) => res.writeHead(307, { location }).end()))
    const result = await fetchWith({ allowedHosts: ['127.0.0.1', '127.0.0.2'] })(post(`http://127.0.0.1:${port}/`))
    expect(result).toMatchObject({ ok: false, reason: 'status', status: 307 })
    expect(forbidden.connections).toBe(0)
  })

  test('reads little of an endless answer and hangs up', async () => {
    let written = 0
    let closed: Promise<unknown> | undefined
    const server = http.createServer((_req, res) => {
      closed = once(res, 'close')
      const push = () => {
        while (!res.destroyed && res.write('x'.repeat(16_384))) written += 16_384
      }
      res.on('drain', push)
      push()
    })
    const port = await listen(server)
    expect(await fetchWith({ allowedHosts: ['127.0.0.1'] })(post(`http://127.0.0.1:${port}/`))).toMatchObject({
      ok: true,
    })
    await closed
    expect(written).toBeLessThan(32 * 1024 * 1024)
  })

  test('keeps the status of an answer that is cut off', async () => {
    const server = http.createServer((_req, res) => {
      res.writeHead(200, { 'content-length': '1000' }).write('x', () => res.destroy())
    })
    const port = await listen(server)
    const result = await fetchWith({ allowedHosts: ['127.0.0.1'] })(post(`http://127.0.0.1:${port}/`))
    expect(result).toEqual({ ok: true, status: 200 })
  })

  test('is told apart by what went wrong', async () => {
    const silent = await listen(http.createServer(() => {}))
    const rude = await listen(http.createServer((req) => req.socket.destroy()))
    const plain = await listen(http.createServer((_req, res) => res.end()))
    const closed = http.createServer()
    closed.listen(0, '127.0.0.1')
    await once(closed, 'listening')
    const { port: refusing } = closed.address() as AddressInfo
    await new Promise((resolve) => closed.close(resolve))

    const call = (url: string) => fetchWith({ allowedHosts: ['127.0.0.1'], totalMsMax: 1_000 })(post(url))
    expect(await call(`http://127.0.0.1:${silent}/`)).toMatchObject({ ok: false, reason: 'timeout' })
    expect(await call(`http://127.0.0.1:${rude}/`)).toMatchObject({ ok: false, reason: 'network' })
    expect(await call(`https://127.0.0.1:${plain}/`)).toMatchObject({ ok: false, reason: 'tls' })
    expect(await call(`http://127.0.0.1:${refusing}/`)).toMatchObject({ ok: false, reason: 'connect' })
  })

  test('ends when the name server says nothing', async () => {
    const resolve = () => new Promise<string[]>(() => {})
    const result = await fetchWith({ resolve, connectMsMax: 200 })(post('http://name.example/'))
    expect(result).toMatchObject({ ok: false, reason: 'timeout' })
  })

  test('tells when it may be repeated', async () => {
    const server = http.createServer((_req, res) => res.writeHead(429, { 'retry-after': '120' }).end())
    const port = await listen(server)
    const result = await fetchWith({ allowedHosts: ['127.0.0.1'] })(post(`http://127.0.0.1:${port}/`))
    expect(result).toMatchObject({ ok: false, status: 429, retryAfterMs: 120_000 })
  })
})

test.each([
  ['120', 120_000],
  ['0', 0],
  ['Fri, 31 Dec 1999 23:59:59 GMT', 59_000],
  ['Fri, 31 Dec 1999 23:00:00 GMT', 0],
  ['', undefined],
  ['-5', undefined],
  ['soon', undefined],
])('retry-after: %s', (value, ms) => {
  expect(parseRetryAfter(value, Date.parse('1999-12-31T23:59:00Z'))).toBe(ms)
})
