import type { HttpBindings } from '@hono/node-server'
import type { Context } from 'hono'
import type { Sql } from '../db/client.ts'
import type { Actor, Requester } from '../domain/accounts/actor.ts'
import type { Logger } from '../lib/logger.ts'

/** What every handler finds in its context. `middleware/context.ts` sets all but `actor`. */
export interface Env {
  /** Node's own request and response; absent when a test calls `app.request()` without a server. */
  Bindings: HttpBindings
  Variables: {
    /** The caller's `x-request-id` when it is a sane one, else ours. Sent back in that header. */
    requestId: string
    /** Writes `requestId` on every line. */
    log: Logger
    /** Are in every answer. What a handler writes to Node's response itself must send them in its head. */
    commonHeaders: Record<string, string>
    /** The address that the request came from; of a client behind a proxy only when settings believe the proxy. */
    clientAddress: string | undefined
    /** W3C trace context of the caller, only when well-formed. https://www.w3.org/TR/trace-context/ */
    traceparent: string | undefined
    /** Ids that the request's log line will name; add with `addLogFields`. */
    logFields: Record<string, string | number | boolean>
    /** Where a client without a credential finds out how to get one (RFC 9728); absent where it could get none. */
    resourceMetadata?: string
    /** Finds out anew who asks, for what stays open. Set together with `actor`. */
    authenticateAgain?: () => Promise<Actor>
    /** Who asks. Set by the authentication middleware, so present behind it. */
    actor?: Actor
    /** A person who is signed in and in no organization yet; only where that is enough. */
    requester?: Requester
    /** The database as the caller's organization sees it. Set together with `actor`. */
    sql?: Sql
  }
}

/** Paths of the agent API; its errors carry `success: false`. */
export function isAgentApi(c: Context<Env>): boolean {
  return c.req.path.startsWith('/api/v1/')
}
