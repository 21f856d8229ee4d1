import { describe, expect, test } from 'vitest'
import { clientAddress, parseTrustedProxies } from './addresses.ts'

const PROXIES = parseTrustedProxies('10.0.0.0/8, 192.0.2.1, fd00::/8')

test.for([
  ['nobody is believed by itself', '203.0.113.9', '198.51.100.1', [], '203.0.113.9'],
  ['a stranger is not believed', '203.0.113.9', '198.51.100.1', PROXIES, '203.0.113.9'],
  ['a proxy names the client', '10.1.2.3', '198.51.100.1', PROXIES, '198.51.100.1'],
  ['what stands before was written by the client', '10.1.2.3', '1.2.3.4, 198.51.100.1', PROXIES, '198.51.100.1'],
  ['proxies in a row', '10.1.2.3', '1.2.3.4, 198.51.100.1, 192.0.2.1, 10.9.9.9', PROXIES, '198.51.100.1'],
  ['a proxy that names nobody', '10.1.2.3', undefined, PROXIES, '10.1.2.3'],
  ['nonsense is nobody', '10.1.2.3', '1.2.3.4, <script>', PROXIES, '10.1.2.3'],
  ['IPv6 proxies', 'fd00::1', '2001:db8::7', PROXIES, '2001:db8::7'],
  ['IPv4 as a socket shows it', '::ffff:10.1.2.3', '::ffff:198.51.100.1', PROXIES, '198.51.100.1'],
  ['with * the peer is believed, and nobody behind it', '203.0.113.9', '1.2.3.4, 198.51.100.1', '*', '198.51.100.1'],
  ['with * a peer that names nobody', '203.0.113.9', undefined, '*', '203.0.113.9'],
  ['no peer, no address', undefined, '198.51.100.1', '*', undefined],
] as const)('%s', ([, peer, header, trusted, client]) => {
  expect(clientAddress(peer, header, trusted)).toBe(client)
})

describe('a list of proxies', () => {
  test.for(['10.0.0.0/33', 'proxy.internal', '10.0.0', '10.0.0.1,,x', '10.0.0.1/8/8'])(
    '%s is refused, not repeated',
    (text) => {
      expect(() => parseTrustedProxies(text)).toThrow(/^entry \d is not an address/)
    },
  )

  test('blanks are nothing', () => {
    expect(parseTrustedProxies(' , ')).toEqual([])
  })
})
