import type { Context, MiddlewareHandler } from 'hono'
import type { Sql } from '../../db/client.ts'
import type { Origin } from '../../domain/accounts/actor.ts'
import type { Authenticator } from '../../domain/accounts/authenticate.ts'
import type { Env } from '../env.ts'

/** `/api/{org}/…`; `v1` is the agent API, where the header names the organization; `account` is what belongs to a person. */
const ORGANIZATION_PATH = /^\/api\/(?!v1\/|auth\/|account\/)([^/]+)\//

const USER_AGENT_CHARS_MAX = 300

export interface AuthenticateDeps {
  authenticator: Authenticator
  /** The database as one organization sees it. */
  scope(organizationId: string): Sql
}

/**
 * Finds out who asks; behind it `c.var.actor` is set, and `c.var.sql` reaches that one organization's rows alone.
 * The organization in the path or header must be the credential's.
 */
export function authenticate({ authenticator, scope }: AuthenticateDeps): MiddlewareHandler<Env> {
  return async (c, next) => {
    const organizationSlug = ORGANIZATION_PATH.exec(c.req.path)?.[1] ?? c.req.header('x-lobu-org')
    const [authorization, cookie] = [c.req.header('authorization'), c.req.header('cookie')]
    const actor = await authenticator.authenticate({ authorization, cookie, organizationSlug })
    c.set('actor', { ...actor, origin: originOf(c) })
    c.set('sql', scope(actor.organizationId))
    await next()
  }
}

/** Where a request came from, for the record. */
export function originOf(c: Context<Env>): Origin {
  return {
    ip: c.get('clientAddress') ?? null,
    userAgent: c.req.header('user-agent')?.slice(0, USER_AGENT_CHARS_MAX) ?? null,
    requestId: c.get('requestId'),
  }
}
