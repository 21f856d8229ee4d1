import { isIP, type LookupFunction } from 'node:net'
import { Client } from 'undici'
import { isPublicAddress } from './address.ts'
import type { GuardedFetch, OutboundFault, OutboundRefusal, OutboundRequest, OutboundResult } from './contract.ts'
import { createResolve, type Resolve } from './resolve.ts'
import { type CheckedUrl, checkUrl, parseAllowedHosts } from './url.ts'

const CONNECT_MS_MAX = 5_000
const TOTAL_MS_MAX = 15_000
/** Read so that the other side can finish what it says; nobody looks at it. */
const BODY_BYTES_MAX = 65_536

export interface GuardedFetchOptions {
  /** `host` or `host:port`, exactly, that may have addresses that are not public. */
  allowedHosts: readonly string[]
  resolve?: Resolve
  /** Look-up, TCP and TLS together. */
  connectMsMax?: number
  /** From the call to the end of the answer. */
  totalMsMax?: number
}

/**
 * Makes the one way out for calls to addresses that are not ours. Each call has a connection of its own, dialled to an
 * address that was checked by the very look-up that found it: an answer that changes in between changes nothing.
 *
 * @throws Error for an entry of `allowedHosts` that is not a host.
 */
export function createGuardedFetch(options: GuardedFetchOptions): GuardedFetch {
  const { resolve = createResolve(), connectMsMax = CONNECT_MS_MAX, totalMsMax = TOTAL_MS_MAX } = options
  const allowedHosts = parseAllowedHosts(options.allowedHosts)

  async function call(request: OutboundRequest, { url, allowed }: CheckedUrl): Promise<OutboundResult> {
    const signal = AbortSignal.timeout(totalMsMax)
    const client = new Client(url.origin, {
      connect: { timeout: connectMsMax, lookup: createGuardedLookup(resolve, allowed) },
      allowH2: false,
      pipelining: 0,
    })
    try {
      const { method, headers, body = null } = request
      const answer = await client.request({ path: `${url.pathname}${url.search}`, method, headers, body, signal })
      // The status is known: whatever happens to the rest of the answer does not change it.
      await answer.body.dump({ limit: BODY_BYTES_MAX, signal }).catch(() => {})
      return readAnswer(answer.statusCode, answer.headers['retry-after'])
    } catch (error) {
      return explainFault(error)
    } finally {
      await client.destroy()
    }
  }

  return async (request) => {
    const checked = checkUrl(request.url, allowedHosts)
    return checked.ok ? call(request, checked) : checked
  }
}

/** Rejects a connect before anything is dialled. */
class LookupRefusal extends Error {
  readonly reason: OutboundFault

  constructor(reason: OutboundFault, message: string, cause?: unknown) {
    super(message, { cause })
    this.name = 'LookupRefusal'
    this.reason = reason
  }
}

/**
 * A `lookup` for `net.connect`: asks once and hands on what it was told only when **every** address is public, since
 * the socket may try each of them. Not asked for hosts that are addresses: `checkUrl` has judged those.
 */
export function createGuardedLookup(resolve: Resolve, allowed: boolean): LookupFunction {
  return (hostname, options, callback) => {
    const fail = (error: LookupRefusal) => callback(error, '', 0)
    const answer = (addresses: string[]) => {
      if (addresses.length === 0) return fail(new LookupRefusal('dns', 'its host name has no address'))
      if (!allowed && !addresses.every(isPublicAddress)) {
        return fail(new LookupRefusal('private_address', 'its host has an address that is not public'))
      }
      const found = addresses.map((address) => ({ address, family: isIP(address) }))
      if (options.all) return callback(null, found)
      callback(null, found[0]!.address, found[0]!.family)
    }
    resolve(hostname, allowed).then(answer, (error: unknown) =>
      fail(new LookupRefusal('dns', `its host name was not resolved${codeIn(error)}`, error)),
    )
  }
}

function readAnswer(status: number, retryAfter: string | string[] | undefined): OutboundResult {
  if (status >= 200 && status < 300) return { ok: true, status }
  const retryAfterMs = parseRetryAfter(String(retryAfter ?? ''), Date.now())
  const message = `it answered ${status}`
  return { ok: false, reason: 'status', status, message, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) }
}

/** Seconds or a date, as https://www.rfc-editor.org/rfc/rfc9110#field.retry-after has it; undefined for anything else. */
export function parseRetryAfter(value: string, nowMs: number): number | undefined {
  if (/^\d+$/.test(value)) return Number(value) * 1000
  const at = value.endsWith('GMT') ? Date.parse(value) : Number.NaN
  return Number.isNaN(at) ? undefined : Math.max(0, at - nowMs)
}

const TIMEOUT_ERRORS = new Set(['TimeoutError', 'ConnectTimeoutError', 'HeadersTimeoutError', 'BodyTimeoutError'])
const CONNECT_CODES = /^(ECONNREFUSED|EHOSTUNREACH|ENETUNREACH|EADDRNOTAVAIL|EACCES|EPERM|EINVAL)$/
const TLS_CODES = /^(EPROTO|CERT_|ERR_TLS_|ERR_SSL_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_|HOSTNAME_MISMATCH)/

function explainFault(error: unknown): OutboundRefusal {
  if (error instanceof LookupRefusal) return { ok: false, reason: error.reason, message: error.message }
  const { name } = error as Error
  const code = codeOf(error)
  if (TIMEOUT_ERRORS.has(name) || code === 'ETIMEDOUT') {
    return { ok: false, reason: 'timeout', message: 'it did not answer in time' }
  }
  if (CONNECT_CODES.test(code)) return { ok: false, reason: 'connect', message: `it cannot be reached${codeIn(error)}` }
  if (TLS_CODES.test(code)) return { ok: false, reason: 'tls', message: `its TLS cannot be trusted${codeIn(error)}` }
  return { ok: false, reason: 'network', message: `the connection broke off${codeIn(error)}` }
}

/** Where several addresses were tried, the first one's error speaks. */
function codeOf(error: unknown): string {
  const { code, errors: inner } = error as { code?: unknown; errors?: unknown[] }
  if (Array.isArray(inner) && inner.length > 0) return codeOf(inner[0])
  return typeof code === 'string' ? code : ''
}

function codeIn(error: unknown): string {
  const code = codeOf(error)
  return code === '' ? '' : ` (${code})`
}
