import { isIP, isIPv6 } from 'node:net'
import { isPublicAddress } from './address.ts'
import type { OutboundRefusal } from './contract.ts'

export interface CheckedUrl {
  ok: true
  /** Normalised: no trailing dot behind the host. */
  url: URL
  /** The operator named this host: its addresses need not be public. */
  allowed: boolean
}

/** Hosts, and `host:port`, in the form that `URL` gives them. */
type AllowedHosts = ReadonlySet<string>

const ENTRY = /^(\[[^\]]*\]|[^:]*)(?::(\d{1,5}))?$/
const HOST = /^(\[[0-9a-f:.]+\]|[a-z0-9._-]+)$/

/**
 * Reads an operator's list. Each entry is exactly one host, on any port, or one `host:port`; there are no patterns.
 * @throws Error that names the first entry that is neither.
 */
export function parseAllowedHosts(entries: readonly string[]): AllowedHosts {
  return new Set(
    entries
      .map((entry) => entry.trim())
      .filter((entry) => entry !== '')
      .map(parseEntry),
  )
}

function parseEntry(entry: string): string {
  const [, name = '', port] = (isIPv6(entry) ? [entry, `[${entry}]`] : ENTRY.exec(entry)) ?? []
  const url = URL.parse(`http://${name}/`)
  const host = url === null ? '' : hostOf(url)
  if (!HOST.test(host) || /[/?#@\\]/.test(name)) throw new Error(`Allowed hosts: ${entry} is not a host or host:port`)
  return port === undefined ? host : `${host}:${Number(port)}`
}

/**
 * What can be said of a URL without asking the DNS: that it is http or https, carries no credentials, and does not name
 * an address that is not public, in whatever notation. Hosts on the list may have any address.
 */
export function checkUrl(text: string, allowedHosts: AllowedHosts): CheckedUrl | OutboundRefusal {
  const url = URL.parse(text)
  if (url === null) return badUrl('it is not a URL')
  if (url.protocol !== 'http:' && url.protocol !== 'https:') return badUrl('it must start with http:// or https://')
  if (url.username !== '' || url.password !== '') return badUrl('it must not contain a user name or password')
  const host = hostOf(url)
  if (host === '') return badUrl('it names no host')
  url.hostname = host
  const port = url.port || (url.protocol === 'https:' ? 443 : 80)
  const allowed = allowedHosts.has(host) || allowedHosts.has(`${host}:${port}`)
  if (allowed || !isInternal(host)) return { ok: true, url, allowed }
  return { ok: false, reason: 'private_address', message: 'its host is not a public one' }
}

/** `URL` has put every notation of an IPv4 address into dotted decimals. A final dot says the same as none. */
function hostOf(url: URL): string {
  return url.hostname.replace(/\.+$/, '')
}

/** Only what is plain without a look-up; other names are judged by their addresses. */
function isInternal(host: string): boolean {
  const address = host.replace(/^\[|\]$/g, '')
  if (isIP(address) !== 0) return !isPublicAddress(address)
  return host === 'localhost' || host.endsWith('.localhost')
}

function badUrl(message: string): OutboundRefusal {
  return { ok: false, reason: 'bad_url', message }
}
