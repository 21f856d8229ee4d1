import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

type Range = [ipaddr.IPv4 | ipaddr.IPv6, number]

/** Proxies that are believed: all (`*`), or these addresses and ranges. */
export type TrustedProxies = '*' | readonly Range[]

/**
 * Reads a comma-separated list of addresses and CIDR ranges, or `*`.
 * @throws Error that names the first entry that is neither.
 */
export function parseTrustedProxies(text: string): TrustedProxies {
  const entries = text.split(',').map((entry) => entry.trim())
  if (entries.includes('*')) return '*'
  return entries.filter((entry) => entry !== '').map(parseRange)
}

function parseRange(entry: string, index: number): Range {
  try {
    // The library also takes `10.1`, which nobody means.
    if (isIP(entry.split('/')[0]!) === 0) throw new Error('no address')
    if (entry.includes('/')) return ipaddr.parseCIDR(entry)
    const address = ipaddr.process(entry)
    return [address, address.kind() === 'ipv4' ? 32 : 128]
  } catch {
    throw new Error(`entry ${index + 1} is not an address or a range like 10.0.0.0/8`)
  }
}

/**
 * Who sent a request: the peer itself, or, when that is a proxy we believe, whom it names at the end of
 * `X-Forwarded-For`, and so on through further proxies. What stands before the first address that is no proxy of ours was
 * written by a stranger. With `*` one proxy is believed, whoever it is. Undefined when the peer is unknown.
 */
export function clientAddress(
  peer: string | undefined,
  forwardedFor: string | undefined,
  trusted: TrustedProxies,
): string | undefined {
  if (peer === undefined || isIP(peer) === 0) return undefined
  let client = plain(peer)
  const hops = (forwardedFor ?? '').split(',').map((hop) => hop.trim())
  if (trusted === '*') {
    const last = hops.at(-1) ?? ''
    return isIP(last) === 0 ? client : plain(last)
  }
  while (hops.length > 0 && isTrusted(client, trusted)) {
    const hop = hops.pop() ?? ''
    if (isIP(hop) === 0) break
    client = plain(hop)
  }
  return client
}

/** An IPv4 address in its own notation, also where the socket shows it as `::ffff:…`. */
function plain(address: string): string {
  return ipaddr.process(address.split('%')[0]!).toString()
}

function isTrusted(address: string, ranges: readonly Range[]): boolean {
  const parsed = ipaddr.process(address)
  return ranges.some(([base, bits]) => parsed.kind() === base.kind() && parsed.match([base, bits] as never))
}
