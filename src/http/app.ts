import type { MiddlewareHandler } from 'hono'
import type { Sql } from '../db/client.ts'
import type { AccessTokens } from '../domain/accounts/access-token.ts'
import type { Authenticator } from '../domain/accounts/authenticate.ts'
import type { SessionTokens } from '../domain/accounts/session-token.ts'
import type { Backlog } from '../domain/limits/backlog.ts'
import type { Budgets } from '../domain/limits/budget.ts'
import type { DefaultLimits } from '../domain/limits/limits.ts'
import type { RateLimiter } from '../domain/limits/rate-limiter.ts'
import type { LocalRunner, PostOptions } from '../domain/messages/post.ts'
import type { CreateInvitationDeps } from '../domain/organizations/create-invitation.ts'
import type { ResolveModel } from '../domain/secrets/choose-model.ts'
import type { OAuthServer } from '../domain/sign-in/oauth-server.ts'
import type { SignedInPerson } from '../domain/sign-in/reader.ts'
import type { Signals } from '../domain/signals.ts'
import type { TrustedProxies } from '../lib/addresses.ts'
import type { Envelope } from '../lib/envelope.ts'
import { AppError } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import type { Redactions } from '../lib/redactions.ts'
import type { SseManager } from '../sse/manager.ts'
import type { Presence } from '../sse/presence.ts'
import type { Metrics } from '../telemetry/metrics.ts'
import type { Tracer } from '../telemetry/tracer.ts'
import type { Env } from './env.ts'
import { authenticate, organizationIn } from './middleware/authenticate.ts'
import { crossOrigin } from './middleware/cross-origin.ts'
import { limitLoad } from './middleware/limit-load.ts'
import { limitRate } from './middleware/limit-rate.ts'
import { resourceMetadataUrl } from './oauth/metadata.ts'
import { createOpenApiDocument } from './openapi.ts'
import { createHttpApp, type Router } from './router.ts'
import { type AccountPagesDeps, accountPageRoutes } from './routes/account-pages.ts'
import { agentRoutes } from './routes/agents.ts'
import { appRoutes } from './routes/apps.ts'
import { auditRoutes } from './routes/audit.ts'
import { conversationRoutes } from './routes/conversations.ts'
import { deadLetterRoutes } from './routes/dead-letters.ts'
import { docsRoutes } from './routes/docs.ts'
import { eventRoutes } from './routes/events.ts'
import { healthRoutes, type Readiness } from './routes/health.ts'
import { limitRoutes } from './routes/limits.ts'
import { memberRoutes } from './routes/members.ts'
import { messageRoutes } from './routes/messages.ts'
import { oauthRoutes } from './routes/oauth.ts'
import { oauthPages } from './routes/oauth-pages.ts'
import { organizationRoutes } from './routes/organizations.ts'
import { ownOrganizationRoutes } from './routes/own-organizations.ts'
import { pageRoutes } from './routes/page.ts'
import { providerKeyRoutes } from './routes/provider-keys.ts'
import { historyRoutes } from './routes/runs.ts'
import { secretRoutes } from './routes/secrets.ts'
import { type SignInRoutesDeps, signInRoutes } from './routes/sign-in.ts'
import { signInProviderRoutes } from './routes/sign-in-providers.ts'
import { tokenRoutes } from './routes/tokens.ts'
import { usageRoutes } from './routes/usage.ts'
import { webhookRoutes } from './routes/webhooks.ts'

export interface GatewayAppDeps {
  log: Logger
  metrics?: Metrics
  tracer?: Tracer
  /** The database as the gateway sees it: for what is not inside of one organization. */
  pool: Sql
  /** The database as one organization sees it. */
  scope(organizationId: string): Sql
  sse: SseManager
  presence: Presence
  signals: Signals
  tokens: SessionTokens
  authenticator: Authenticator
  rates: RateLimiter
  budgets: Budgets
  backlog: Backlog
  defaultLimits: DefaultLimits
  singleOrganization: boolean
  auditKeepDays: number
  accessTokens: AccessTokens
  oauth: OAuthServer
  /** Who is signed in with the browser that sends this header. */
  findReader(cookie: string | undefined): Promise<SignedInPerson | null>
  runner: LocalRunner
  post: PostOptions
  publicUrl: string
  trustedOrigins: readonly string[]
  trustedProxies: TrustedProxies
  /** Name of the cookie of signed-in people. */
  sessionCookie: string
  signIn: SignInRoutesDeps['signIn']
  accounts: Omit<AccountPagesDeps, 'secureCookies'>
  version: string
  /** True until the parts behind the routes work. */
  isStarting(): boolean
  /** Requests worked on at once. */
  requestsMax: number
  readiness(): Promise<Readiness>
  resolveModel: ResolveModel
  /** Seals and opens stored secrets. */
  envelope: Envelope
  redactions: Redactions
  /** Providers of models that organizations and agents may have a key for. */
  providers: readonly string[]
  /** @throws AppError 'invalid_request' for a URL that may not be called. */
  checkWebhookUrl(url: string): void
  /** @throws AppError 'invalid_request' for the issuer of a sign-in provider that may not be called. */
  checkIssuer(url: string): void
  /** Sends an invitation's link to its address; undefined where no mail can be sent. */
  mailInvitation: CreateInvitationDeps['mailInvitation']
  /** The key that signs an organization's webhooks. */
  webhookKey(organizationId: string): string
}

/** What needs the database. */
const STARTING_PATHS = ['/api/*', '/sign-in/*', '/setup', '/invite/*', '/oauth/*', '/device', '/consent']

/** Every route of the gateway. What comes before the authentication is open to anybody; what comes behind is not. */
export function createGatewayApp(deps: GatewayAppDeps): Router {
  const https = deps.publicUrl.startsWith('https:')
  const sql = deps.pool
  const app = createHttpApp({ ...deps, https })
  app.use(crossOrigin(deps))
  app.route('/', healthRoutes(deps))
  app.route('/', pageRoutes())
  app.route('/', docsRoutes({ document: () => createOpenApiDocument(app, deps) }))

  app.use(limitLoad(deps))
  const whileStarting = refuseWhileStarting(deps.isStarting)
  for (const path of STARTING_PATHS) app.use(path, whileStarting)
  app.use(async (c, next) => {
    c.set('resourceMetadata', resourceMetadataUrl(deps.publicUrl, c.req.path))
    await next()
  })
  app.route('/', accountPageRoutes({ ...deps.accounts, secureCookies: https }))
  // Before better-auth's routes, of which they take some over.
  app.route('/', oauthRoutes({ ...deps, sql }))
  app.route('/', oauthPages({ ...deps, sql }))
  app.route('/', signInRoutes(deps))
  app.use('/api/*', authenticate(deps), limitRate(deps))
  app.route('/', appRoutes({ ...deps, sql }))
  app.route('/', conversationRoutes(deps))
  app.route('/', messageRoutes({ ...deps, options: deps.post }))
  app.route('/', eventRoutes({ ...deps, replica: deps.post.replica }))
  app.route('/', historyRoutes())
  app.route('/', ownOrganizationRoutes(deps))
  app.use('/api/*', endReserved())
  app.route('/', organizationRoutes(deps))
  app.route('/', memberRoutes(deps))
  app.route('/', tokenRoutes(deps))
  app.route('/', signInProviderRoutes(deps))
  app.route('/', auditRoutes(deps))
  app.route('/', agentRoutes(deps))
  app.route('/', secretRoutes(deps))
  app.route('/', providerKeyRoutes(deps))
  app.route('/', deadLetterRoutes(deps))
  app.route('/', webhookRoutes(deps))
  app.route('/', usageRoutes())
  app.route('/', limitRoutes(deps))
  return app
}

function refuseWhileStarting(isStarting: () => boolean): MiddlewareHandler<Env> {
  return async (_c, next) => {
    if (isStarting()) throw new AppError('starting', 'This replica is still starting')
    await next()
  }
}

/** What a reserved word like `v1` has no route for ends here: no organization is called so, and the caller's is not meant. */
function endReserved(): MiddlewareHandler<Env> {
  return async (c, next) => (organizationIn(c.req.path) === undefined ? c.notFound() : next())
}
