/** One call to an address that somebody outside chose. */
export interface OutboundRequest {
  url: string
  method: 'GET' | 'POST' | 'PUT'
  headers: Record<string, string>
  body?: string
}

/**
 * Why there was no 2xx:
 * `bad_url` it cannot be called at all; `private_address` it leads into a network that is not public; `dns` the name has
 * no address; `connect`, `tls`, `network` the connection was refused, not trusted or cut off; `timeout` it took too long.
 */
export type OutboundFault = 'bad_url' | 'private_address' | 'dns' | 'connect' | 'tls' | 'network' | 'timeout'

/** A call that was not made, or got no answer. `message` is safe to log: it holds no part of the URL. */
export interface OutboundRefusal {
  ok: false
  reason: OutboundFault
  message: string
}

/** An answer other than 2xx. Redirects are among them: they are not followed. */
export interface OutboundBadStatus {
  ok: false
  reason: 'status'
  status: number
  /** What the answer asked for, in milliseconds from now; unbounded. */
  retryAfterMs?: number
  message: string
}

export type OutboundResult = { ok: true; status: number } | OutboundRefusal | OutboundBadStatus

/**
 * Calls a URL that is not ours: public addresses only, no redirects, bounded in time and in what is read of the answer.
 * Never rejects.
 */
export type GuardedFetch = (request: OutboundRequest) => Promise<OutboundResult>

export { checkUrl, parseAllowedHosts } from './url.ts'
