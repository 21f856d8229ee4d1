import type { MiddlewareHandler } from 'hono'
import type { Sql } from '../db/client.ts'
import type { Authenticator } from '../domain/accounts/authenticate.ts'
import type { SessionTokens } from '../domain/accounts/session-token.ts'
import type { LocalRunner, PostOptions } from '../domain/messages/post.ts'
import type { Signals } from '../domain/signals.ts'
import { AppError } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import type { SseManager } from '../sse/manager.ts'
import type { Presence } from '../sse/presence.ts'
import type { Env } from './env.ts'
import { authenticate } from './middleware/authenticate.ts'
import { createOpenApiDocument } from './openapi.ts'
import { createHttpApp, type Router } from './router.ts'
import { agentRoutes } from './routes/agents.ts'
import { conversationRoutes } from './routes/conversations.ts'
import { deadLetterRoutes } from './routes/dead-letters.ts'
import { docsRoutes } from './routes/docs.ts'
import { eventRoutes } from './routes/events.ts'
import { healthRoutes, type Readiness } from './routes/health.ts'
import { messageRoutes } from './routes/messages.ts'
import { pageRoutes } from './routes/page.ts'
import { historyRoutes } from './routes/runs.ts'
import { webhookRoutes } from './routes/webhooks.ts'

export interface GatewayAppDeps {
  log: Logger
  sql: Sql
  sse: SseManager
  presence: Presence
  signals: Signals
  tokens: SessionTokens
  authenticator: Authenticator
  runner: LocalRunner
  post: PostOptions
  publicUrl: string
  version: string
  /** True until the parts behind the routes work. */
  isStarting(): boolean
  readiness(): Promise<Readiness>
  resolveModel(name: string | null, provider?: string): { provider: string; modelId: string }
  /** @throws AppError 'invalid_request' for a URL that may not be called. */
  checkWebhookUrl(url: string): void
  /** The key that signs an organization's webhooks. */
  webhookKey(organizationId: string): string
}

/** Every route of the gateway. What comes before the authentication is open to anybody; what comes behind is not. */
export function createGatewayApp(deps: GatewayAppDeps): Router {
  const app = createHttpApp(deps)
  app.route('/', healthRoutes(deps))
  app.route('/', pageRoutes())
  app.route('/', docsRoutes({ document: () => createOpenApiDocument(app, deps) }))

  app.use('/api/*', refuseWhileStarting(deps.isStarting), authenticate(deps))
  app.route('/', conversationRoutes(deps))
  app.route('/', messageRoutes({ ...deps, options: deps.post }))
  app.route('/', eventRoutes({ ...deps, replica: deps.post.replica }))
  app.route('/', historyRoutes(deps))
  // `v1` is no organization: what the agent API does not have ends here.
  app.all('/api/v1/*', (c) => c.notFound())
  app.route('/', agentRoutes(deps))
  app.route('/', deadLetterRoutes(deps))
  app.route('/', webhookRoutes(deps))
  return app
}

function refuseWhileStarting(isStarting: () => boolean): MiddlewareHandler<Env> {
  return async (_c, next) => {
    if (isStarting()) throw new AppError('starting', 'This replica is still starting')
    await next()
  }
}
