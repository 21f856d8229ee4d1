import type { MiddlewareHandler } from 'hono'
import type { Authenticator } from '../../domain/accounts/authenticate.ts'
import type { Env } from '../env.ts'

/** `/api/{org}/…`; `v1` is the agent API, where the header names the organization. */
const ORGANIZATION_PATH = /^\/api\/(?!v1\/)([^/]+)\//

/** Finds out who asks; behind it `c.var.actor` is set. The organization in the path or header must be the credential's. */
export function authenticate({ authenticator }: { authenticator: Authenticator }): MiddlewareHandler<Env> {
  return async (c, next) => {
    const organizationSlug = ORGANIZATION_PATH.exec(c.req.path)?.[1] ?? c.req.header('x-lobu-org')
    c.set('actor', await authenticator.authenticate(c.req.header('authorization'), organizationSlug))
    await next()
  }
}
