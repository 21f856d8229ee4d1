import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { pino } from 'pino'
import { expect, test } from 'vitest'
import type { Database, Sql } from './db/client.ts'
import { createNotifier } from './db/notify.ts'
import { createAccessTokens } from './domain/accounts/access-token.ts'
import { createAuthenticator } from './domain/accounts/authenticate.ts'
import { createPersonLookup, createSessionCookies } from './domain/accounts/browser-session.ts'
import { createSessionTokens } from './domain/accounts/session-token.ts'
import { createKeyUse } from './domain/keys/note-use.ts'
import { createLimitBook } from './domain/limits/limits.ts'
import { createRateLimiter } from './domain/limits/rate-limiter.ts'
import { createRedactions } from './lib/redactions.ts'
import { createPresence } from './sse/presence.ts'
import { createTail } from './sse/tail.ts'

const log = pino({ level: 'silent' })
const SOME = 30_000
const MANY = 130_000
/** What a hundred thousand entries that stay would take many times over. */
const GROWTH_MB_MAX = 8

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

function heapMb(): number {
  collect()
  return process.memoryUsage().heapUsed / 2 ** 20
}

/** Answers at once with a row of everything: what is found is kept, so this is the worst that can come. */
const sql = (() => {
  const row = {
    id: 'x',
    userId: 'u',
    organizationId: 'o',
    slug: 's',
    role: 'owner',
    scopes: ['*'],
    granted: 1,
    left: 1,
    expiresAt: new Date(Date.now() + 1e9),
  }
  return Promise.resolve([row])
}) as unknown as Sql
const scope: Database['sql'] = sql

/**
 * Each map and cache of the process whose keys come from a client, with what puts an entry into it. Others are bounded by
 * what they count: streams (`manager`, `receipts`, `tail`), workers and runs (`pool`, `runner`), requests (`server`, `proxy`).
 */
const KEYED: Record<string, () => (key: string) => unknown> = {
  'limits by organization': () =>
    createLimitBook({ sql }, { runsMax: 1, requestsPerMinute: null, keyRequestsPerMinute: null }).of,
  'rates by organization and key': () => {
    const limits = { of: async () => ({ requestsPerMinute: 5, keyRequestsPerMinute: 5 }), forget() {} }
    const { admit } = createRateLimiter({ sql, limits: limits as never })
    return (key) => admit({ organizationId: key, kind: 'key', credentialId: key })
  },
  'callers by credential': () => {
    const people = createPersonLookup({
      sql: scope,
      cookies: createSessionCookies({ publicUrl: 'http://localhost', secret: 'x'.repeat(32) } as never),
    })
    const accessTokens = createAccessTokens({ sql })
    const { authenticate } = createAuthenticator({
      sql,
      tokens: createSessionTokens('x'.repeat(32)),
      people,
      accessTokens,
    })
    return (key) => authenticate({ authorization: `Bearer lobu_${key.padEnd(32, 'x')}` } as never)
  },
  'access tokens': () => {
    const { find } = createAccessTokens({ sql })
    return (key) => find(`lobuat_${key}`)
  },
  'use of keys': () => {
    const { note } = createKeyUse({ sql, log })
    return (keyId) => note({ organizationId: keyId, keyId })
  },
  'ends that streams have shown': () => {
    const { seen } = createPresence({ sql, log, noteEndsSeen: async () => {} })
    return (key) => seen({ organizationId: key, conversationId: key }, 1)
  },
  'doorbells for conversations that nobody follows here': () =>
    createTail({ sql, log }, { pollMs: () => 60_000 }).suspect,
  'doorbells on their way out': () => {
    const { ring } = createNotifier({ sql: (() => new Promise(() => {})) as unknown as Sql, log })
    return (key) => ring('channel', key)
  },
  'secrets that are not logged': () => createRedactions().add,
}

// 70
test.for(Object.keys(KEYED))('%s: a hundred thousand different keys leave the heap as it was', async (name) => {
  const use = KEYED[name]!()
  let refused = 0
  const feed = async (from: number, to: number) => {
    for (let at = from; at < to; at++) await Promise.resolve(use(`key-${at}`)).catch(() => refused++)
  }
  await feed(0, SOME)
  const before = heapMb()
  await feed(SOME, MANY)
  expect(heapMb() - before).toBeLessThan(GROWTH_MB_MAX)
  expect(refused, 'it was used, and did not only refuse').toBe(0)
})
