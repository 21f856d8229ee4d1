import { Client } from 'undici'
import { createGuardedLookup } from './guarded-fetch.ts'
import { createResolve, type Resolve } from './resolve.ts'
import { checkUrl, parseAllowedHosts } from './url.ts'

const CONNECT_MS_MAX = 5_000
const TOTAL_MS_MAX = 10_000
const ANSWER_BYTES_MAX = 262_144

export interface CallInit {
  method?: 'GET' | 'POST'
  headers?: Record<string, string>
  body?: string
}

/** Like `GuardedFetch`, for those who read the answer: at most 256 KiB of it. Rejects with what is safe to log. */
export type GuardedCall = (url: string, init?: CallInit) => Promise<{ status: number; text: string }>

/**
 * Calls URLs that somebody chose, without following redirects, bounded in time and size. With `anyAddress` the operator
 * chose them, and they may lie in a private network; otherwise the rules of `guarded-fetch.ts` hold.
 */
export function createGuardedCall(options: {
  allowedHosts: readonly string[]
  anyAddress?: boolean
  resolve?: Resolve
}): GuardedCall {
  const { resolve = createResolve(), anyAddress = false } = options
  const allowedHosts = parseAllowedHosts(options.allowedHosts)
  return async (target, { method = 'GET', headers = {}, body = null as string | null } = {}) => {
    const parsed = URL.parse(target)
    const own = anyAddress && parsed ? new Set([parsed.hostname.replace(/\.+$/, '')]) : allowedHosts
    const checked = checkUrl(target, own)
    if (!checked.ok) throw new Error(`the address cannot be called: ${checked.message}`)
    const { url, allowed } = checked
    const client = new Client(url.origin, {
      connect: { timeout: CONNECT_MS_MAX, lookup: createGuardedLookup(resolve, allowed) },
      allowH2: false,
      pipelining: 0,
      maxResponseSize: ANSWER_BYTES_MAX,
    })
    try {
      const signal = AbortSignal.timeout(TOTAL_MS_MAX)
      const answer = await client.request({ path: `${url.pathname}${url.search}`, method, headers, body, signal })
      return { status: answer.statusCode, text: await answer.body.text() }
    } finally {
      await client.destroy()
    }
  }
}
