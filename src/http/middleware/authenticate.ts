import type { Context, MiddlewareHandler } from 'hono'
import type { Sql } from '../../db/client.ts'
import type { Origin } from '../../domain/accounts/actor.ts'
import type { Authenticator } from '../../domain/accounts/authenticate.ts'
import { isReservedSlug } from '../../domain/organizations/slug.ts'
import type { Env } from '../env.ts'

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
    const organizationSlug = organizationIn(c.req.path) ?? c.req.header('x-lobu-org')
    const actor = await authenticator.authenticate({ authorization: c.req.header('authorization'), organizationSlug })
    c.set('actor', { ...actor, origin: originOf(c) })
    c.set('sql', scope(actor.organizationId))
    await next()
  }
}

/** `/api/{org}` and what lies below. A reserved word is no organization: there the header names it, if anything does. */
export function organizationIn(path: string): string | undefined {
  const word = /^\/api\/([^/]+)/.exec(path)?.[1]
  return word === undefined || isReservedSlug(word) ? undefined : word
}

/** The address of the peer itself: who forwards requests for others is not believed unless settings say so. */
function originOf(c: Context<Env>): Origin {
  return {
    ip: c.env?.incoming?.socket.remoteAddress ?? null,
    userAgent: c.req.header('user-agent')?.slice(0, USER_AGENT_CHARS_MAX) ?? null,
    requestId: c.get('requestId'),
  }
}
