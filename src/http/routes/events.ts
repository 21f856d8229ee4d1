import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { createRoute, z } from '@hono/zod-openapi'
import type { Context } from 'hono'
import { requireConversation } from '../../domain/accounts/actor.ts'
import { followConversation } from '../../domain/conversations/follow.ts'
import { getConversation } from '../../domain/conversations/get.ts'
import { AppError } from '../../lib/errors.ts'
import type { SseManager } from '../../sse/manager.ts'
import type { Presence } from '../../sse/presence.ts'
import { STREAM_HEADERS } from '../../sse/stream.ts'
import { actorOf, databaseOf } from '../actor.ts'
import type { Env } from '../env.ts'
import { BEARER } from '../openapi.ts'
import { addLogFields } from '../request-log.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { ConversationId } from './conversations.ts'

const Position = z.string().max(32).optional()

const DESCRIPTION = `Each event is \`id: <n>\`, \`event: <name>\`, \`data: <one-line JSON>\`. Numbers are consecutive within a
conversation; \`connected\`, \`ping\`, \`reset\` and \`closed\` have none. A client that comes back sends the last number it has
seen, on any replica, and gets each later event once. Without a position the stream starts with the turn that is unfinished.

| event | data |
| --- | --- |
| \`connected\` | \`{agentId, conversationId, timestamp}\` |
| \`ping\` | \`{timestamp}\` |
| \`output\` | \`{type: "delta", content, timestamp, messageId}\` |
| \`status\` | \`{type: "status", status: {elapsedSeconds, state}, messageId, timestamp}\` |
| \`tool-use\` | \`{name, phase: "start" or "end", summary, messageId, timestamp}\` |
| \`error\` | \`{type: "error", error, code, messageId, timestamp}\`, then \`complete\` for the same message |
| \`complete\` | \`{type: "complete", messageId, processedMessageIds, finalText, usage, status, timestamp}\`, once for each message; \`status\` is completed, failed or cancelled |
| \`reset\` | \`{oldest, snapshot}\` when the position is no longer kept: the snapshot replaces what the client has shown |
| \`closed\` | \`{reason}\`; do not come back. \`unauthorized\`: the credential was taken away or has expired |

Other events may be added; leave out what you do not know.`

const events = createRoute({
  method: 'get',
  path: '/api/v1/agents/{id}/events',
  tags: ['Messages'],
  summary: 'Follow a conversation by server-sent events; resumes behind Last-Event-ID on any replica',
  description: DESCRIPTION,
  request: {
    params: ConversationId,
    headers: z.object({ 'last-event-id': Position }),
    query: z.object({ lastEventId: Position }),
  },
  security: BEARER,
  responses: {
    200: { description: 'Events until the client goes', content: { 'text/event-stream': { schema: z.string() } } },
    ...errors('invalid_request', 'unauthenticated', 'not_found', 'too_many_streams', 'draining'),
  },
})

export interface EventRouteDeps {
  sse: SseManager
  presence: Presence
  replica: string
}

/** The event stream. Everything is decided before the first byte; from there on the stream belongs to `SseManager`. */
export function eventRoutes(deps: EventRouteDeps): Router {
  return createRouter().openapi(events, async (c) => {
    const conversationId = c.req.valid('param').id
    const lastEventId = c.req.valid('header')['last-event-id'] ?? c.req.valid('query').lastEventId
    // Hono routes HEAD here too. A stream writes past Node's response, and so into the answer to the next request.
    if (c.req.method === 'HEAD') {
      await getConversation(databaseOf(c), { actor: actorOf(c), conversationId })
      return c.body(null, 200, STREAM_HEADERS) as never
    }
    deps.sse.admit()
    const following = await followConversation(databaseOf(c), {
      actor: actorOf(c),
      conversationId,
      lastEventId,
      replica: deps.replica,
    })
    addLogFields(c, { conversationId })
    const { stream } = following
    const leave = () => deps.presence.leave(stream)
    try {
      deps.sse.attach(c.env.outgoing as never, {
        ...{ ...following, headers: c.get('commonHeaders'), onClose: leave, mayStay: mayStay(c, following) },
        onEndSeen: (seq) => deps.presence.seen(stream, seq),
      })
    } catch (error) {
      leave()
      throw error
    }
    return RESPONSE_ALREADY_SENT as never
  })
}

const LOST = new Set(['unauthenticated', 'forbidden', 'no_organization', 'not_found'])

/**
 * Asked while the stream is open. A failure that says nothing about the caller, like a database that is away, takes nothing
 * from them. Keeps none of the request but its credential: streams stay for hours.
 */
function mayStay(
  c: Context<Env>,
  { organizationId, conversationId }: { organizationId: string; conversationId: string },
) {
  const authenticateAgain = c.get('authenticateAgain')
  return (
    authenticateAgain &&
    (async () => {
      try {
        const actor = await authenticateAgain()
        requireConversation(actor, conversationId)
        return actor.organizationId === organizationId
      } catch (error) {
        return !(error instanceof AppError && LOST.has(error.code))
      }
    })
  )
}
