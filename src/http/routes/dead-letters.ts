import { createRoute, z } from '@hono/zod-openapi'
import { listDeadLetters } from '../../domain/dead-letters/list.ts'
import { removeDeadLetter } from '../../domain/dead-letters/remove.ts'
import { replayDeadLetter } from '../../domain/dead-letters/replay.ts'
import type { PostOptions } from '../../domain/messages/post.ts'
import type { Signals } from '../../domain/signals.ts'
import { actorOf, databaseOf } from '../actor.ts'
import { BEARER } from '../openapi.ts'
import { byCursor } from '../paging.ts'
import { createRouter, errors, type Router } from '../router.ts'
import { Org } from './organizations.ts'

const DeadLetter = z
  .object({
    id: z.string(),
    queue: z
      .string()
      .openapi({ description: '`runs` for a turn that was given up, else the kind of call', example: 'webhook' }),
    error: z.string(),
    attempts: z.number(),
    createdAt: z.number().openapi({ description: 'Epoch milliseconds' }),
    conversationId: z.string().nullable(),
    messageId: z.string().nullable(),
    target: z.string().nullable().openapi({ description: 'URL of a call' }),
  })
  .openapi('DeadLetter')

const Replayed = z
  .discriminatedUnion('kind', [
    z.object({ kind: z.literal('run'), conversationId: z.string(), messageId: z.string(), runId: z.string() }),
    z.object({ kind: z.literal('call'), deliveryId: z.string() }),
  ])
  .openapi('Replayed')

const OrgLetter = Org.extend({ id: z.string().min(1).max(64) })
const tags = ['Dead letters']

const list = createRoute({
  method: 'get',
  path: '/api/{org}/dead-letters',
  tags,
  summary: 'What was given up',
  request: {
    params: Org,
    query: byCursor({ fallback: 50, max: 200 }).extend({
      queue: z.string().min(1).max(100).optional().openapi({ description: '`runs`, or a kind of call' }),
      conversationId: z.string().min(1).max(100).optional(),
    }),
  },
  security: BEARER,
  responses: {
    200: {
      description: 'A page',
      content: {
        'application/json': {
          schema: z.object({ deadLetters: z.array(DeadLetter), nextCursor: z.string().nullable() }),
        },
      },
    },
    ...errors('invalid_request', 'unauthenticated', 'forbidden', 'not_found'),
  },
})

const replay = createRoute({
  method: 'post',
  path: '/api/{org}/dead-letters/{id}/replay',
  tags,
  summary: 'Do it once more: ask the message again, or make the call again',
  request: { params: OrgLetter },
  security: BEARER,
  responses: {
    202: {
      description: 'It will be done, and is no dead letter any more',
      content: { 'application/json': { schema: Replayed } },
    },
    ...errors('unauthenticated', 'forbidden', 'not_found', 'conflict', 'queue_full'),
  },
})

const remove = createRoute({
  method: 'delete',
  path: '/api/{org}/dead-letters/{id}',
  tags,
  summary: 'Forget it',
  request: { params: OrgLetter },
  security: BEARER,
  responses: { 204: { description: 'Removed' }, ...errors('unauthenticated', 'forbidden', 'not_found') },
})

/** What was given up for good: looked at, done once more, or forgotten. */
export function deadLetterRoutes({ signals, post }: { signals: Signals; post: PostOptions }): Router {
  return createRouter()
    .openapi(list, async (c) => {
      const { deadLetters, nextCursor } = await listDeadLetters(databaseOf(c), {
        actor: actorOf(c),
        ...c.req.valid('query'),
      })
      const shown = deadLetters.map((letter) => ({ ...letter, createdAt: letter.createdAt.getTime() }))
      return c.json({ deadLetters: shown, nextCursor }, 200)
    })
    .openapi(replay, async (c) => {
      const { id } = c.req.valid('param')
      return c.json(await replayDeadLetter({ sql: databaseOf(c), signals }, { actor: actorOf(c), id }, post), 202)
    })
    .openapi(remove, async (c) => {
      await removeDeadLetter(databaseOf(c), { actor: actorOf(c), id: c.req.valid('param').id })
      return c.body(null, 204)
    })
}
