import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

/** The only block that ordinary IPv6 addresses are given from; https://www.iana.org/assignments/ipv6-unicast-address-assignments */
const GLOBAL_UNICAST = ipaddr.IPv6.parseCIDR('2000::/3')

/** Public by its number, yet inside Azure it answers every machine, with the machine's secrets: https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16 */
const AZURE_WIRE_SERVER = '168.63.129.16'

/**
 * True for an address of the public internet. False for everything with a special meaning (loopback, private, link-local,
 * shared, multicast, documentation, …), for IPv6 addresses that carry an IPv4 one (mapped, NAT64, 6to4, Teredo), whatever
 * it is, for addresses with a zone, and for what is no address.
 */
export function isPublicAddress(address: string): boolean {
  if (isIP(address) === 0 || address.includes('%')) return false
  const parsed = ipaddr.parse(address)
  if (parsed.range() !== 'unicast') return false
  if (parsed instanceof ipaddr.IPv6) return parsed.match(GLOBAL_UNICAST)
  return parsed.toString() !== AZURE_WIRE_SERVER
}
