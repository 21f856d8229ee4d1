import { AppError } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import { createHttpApp, type Router } from './router.ts'
import { healthRoutes } from './routes/health.ts'

/** What is answered while there is no database yet: alive, not ready and why, and for all else that it is to be tried again. */
export function createWaitingRoom(deps: { log: Logger; version: string; reason(): string }): Router {
  const app = createHttpApp(deps)
  const readiness = async () => ({
    ready: false,
    subsystems: {
      gateway: { state: 'starting' as const },
      database: { state: 'down' as const, detail: deps.reason() },
    },
  })
  app.route('/', healthRoutes({ ...deps, readiness }))
  app.use(async () => {
    throw new AppError('starting', 'This replica is still starting', { retryAfterSeconds: 1 })
  })
  return app
}
