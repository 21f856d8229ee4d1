import { lookup, NODATA, Resolver } from 'node:dns/promises'

/**
 * All addresses of a host name, at least one; rejects when there is none or nobody says. `allowed` tells that the name is
 * the operator's own.
 */
export type Resolve = (hostname: string, allowed: boolean) => Promise<string[]>

/** One question to one server. Two tries fit into the time that a connect may take. */
const QUERY_MS = 2_000
const TRIES = 2

/**
 * Asks the DNS itself for names that strangers chose: `getaddrinfo` blocks a thread of the pool for as long as their
 * server likes, and there are four for the whole process; it also tries the search domains of our own network. The
 * operator's own names take that road, since they may stand in /etc/hosts or need a search domain.
 *
 * @param servers name servers as `address:port`; absent: those of the system.
 */
export function createResolve({ servers }: { servers?: string[] } = {}): Resolve {
  return async (hostname, allowed) => {
    if (allowed) return (await lookup(hostname, { all: true })).map(({ address }) => address)
    const resolver = new Resolver({ timeout: QUERY_MS, tries: TRIES })
    if (servers !== undefined) resolver.setServers(servers)
    const [v4, v6] = await Promise.allSettled([resolver.resolve4(hostname), resolver.resolve6(hostname)])
    const addresses = [v4, v6].flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []))
    if (addresses.length === 0) throw v4.status === 'rejected' ? v4.reason : noAddress()
    return addresses
  }
}

/** For a name that only leads to another one Node does not reject: it answers with an empty list. */
function noAddress(): Error {
  return Object.assign(new Error('the name has no address'), { code: NODATA })
}
