import type { Context, MiddlewareHandler } from 'hono'
import type { Sql } from '../../db/client.ts'
import type { Origin } from '../../domain/accounts/actor.ts'
import type { Authenticator } from '../../domain/accounts/authenticate.ts'
import type { PersonLookup } from '../../domain/accounts/browser-session.ts'
import { isReservedSlug } from '../../domain/organizations/slug.ts'
import type { Env } from '../env.ts'

const USER_AGENT_CHARS_MAX = 300

/** What a person asks for outside of any one organization, and so may be a member of none. */
const PERSONAL_PATH = /^\/api\/(organizations|invitations\/accept)$/

export interface AuthenticateDeps {
  authenticator: Authenticator
  /** Who is signed in with the browser that sends this header. */
  accounts: Pick<PersonLookup, 'identify'>
  /** The database as one organization sees it. */
  scope(organizationId: string): Sql
}

/**
 * Finds out who asks; behind it `c.var.actor` is set, and `c.var.sql` reaches that one organization's rows alone.
 * The organization in the path or header must be the credential's.
 */
export function authenticate({ authenticator, accounts, scope }: AuthenticateDeps): MiddlewareHandler<Env> {
  return async (c, next) => {
    const organizationSlug = organizationIn(c.req.path) ?? c.req.header('x-lobu-org')
    const [authorization, cookie] = [c.req.header('authorization'), c.req.header('cookie')]
    if (authorization === undefined && PERSONAL_PATH.test(c.req.path)) {
      const person = await accounts.identify(cookie)
      if (person) {
        c.set('requester', { kind: 'user', credentialId: person.sessionId, userId: person.userId, origin: originOf(c) })
        if (person.memberships.length === 0) return next()
      }
    }
    const credentials = { authorization, cookie, organizationSlug }
    const actor = await authenticator.authenticate(credentials)
    c.set('authenticateAgain', () => authenticator.authenticate(credentials))
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

/** Where a request came from, for the record. */
export function originOf(c: Context<Env>): Origin {
  return {
    ip: c.get('clientAddress') ?? null,
    userAgent: c.req.header('user-agent')?.slice(0, USER_AGENT_CHARS_MAX) ?? null,
    requestId: c.get('requestId'),
  }
}
