import { scopeToOrganization } from '../../src/db/tenant.ts'
import { createAuthenticator } from '../../src/domain/accounts/authenticate.ts'
import { createSessionTokens } from '../../src/domain/accounts/session-token.ts'
import { createBacklog } from '../../src/domain/limits/backlog.ts'
import { createBudgets } from '../../src/domain/limits/budget.ts'
import { createLimitBook } from '../../src/domain/limits/limits.ts'
import { createRateLimiter } from '../../src/domain/limits/rate-limiter.ts'
import { createGatewayApp, type GatewayAppDeps } from '../../src/http/app.ts'
import type { Scene } from './scene.ts'
import type { World } from './world.ts'

export const PUBLIC_URL = 'https://lobu.example.com'

/**
 * The gateway's routes on a scene's database, without streams, workers and loops: for requests that need none of them.
 * `call` sends one with a key, and hands back its status and body.
 */
export function createTestApp({ sql, signals }: Scene, { log }: World, over: Partial<GatewayAppDeps> = {}) {
  const tokens = createSessionTokens('a secret of the tests that is long enough')
  const missing = {} as never
  const defaultLimits = { requestsPerMinute: null, keyRequestsPerMinute: null, runsMax: 200 }
  const limits = createLimitBook({ sql }, defaultLimits)
  const app = createGatewayApp({
    ...{ log, signals, tokens, sse: missing, presence: missing, runner: missing, post: missing, version: '1' },
    ...{ pool: sql, scope: (organizationId) => scopeToOrganization(sql, organizationId) },
    ...{ defaultLimits, rates: createRateLimiter({ sql, limits }), budgets: createBudgets({ sql, limits }) },
    ...{ backlog: createBacklog({ sql }, { max: 10_000 }), requestsMax: 1_000 },
    ...{ publicUrl: PUBLIC_URL, singleOrganization: false, auditKeepDays: 365, isStarting: () => false },
    authenticator: createAuthenticator({ sql, tokens }),
    readiness: () => Promise.reject(new Error('not asked for')),
    resolveModel: async () => ({ provider: 'demo', modelId: 'demo' }),
    ...{ envelope: missing, redactions: missing, providers: [] },
    ...{
      accessTokens: missing,
      oauth: missing,
      signIn: { handle: async () => new Response('{}', { status: 404 }) } as never,
      trustedOrigins: [],
      trustedProxies: [] as const,
    },
    ...{ sessionCookie: 'lobu.session_token', findReader: async () => null },
    accounts: { identify: async () => null } as never,
    checkWebhookUrl: () => {},
    ...{ checkIssuer: () => {}, mailInvitation: undefined },
    webhookKey: () => 'key',
    ...over,
  })

  async function call(method: string, path: string, options: { token?: string; body?: unknown } = {}) {
    const { token, body } = options
    const response = await app.request(path, {
      method,
      headers: {
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    const isJson = response.headers.get('content-type')?.startsWith('application/json') ?? false
    // biome-ignore lint/suspicious/noExplicitAny: a test looks into whatever came back
    return { status: response.status, headers: response.headers, text, body: isJson ? (JSON.parse(text) as any) : null }
  }

  return { app, call, tokens }
}
