import type { ServerResponse } from 'node:http'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { Context } from 'hono'
import type { Env, Router } from '../../src/http/router.ts'
import { AppError } from '../../src/lib/errors.ts'

export const KEY = 'lobu_0123456789abcdef'

interface Conversation {
  thread: string
  token: string
  history: { id: string; type: string; role: string; content: string; timestamp: number; run?: unknown }[]
  events: { name: string; data: Record<string, unknown> }[]
  /** How many events belong to finished turns. */
  finished: number
  streams: Set<ServerResponse>
}

/** The agent API as api.md fixes it, with no agent behind: a test writes the answers, one event at a time. */
export function createFakeAgentApi() {
  const conversations = new Map<string, Conversation>()
  const calls: { path: string; body: Record<string, unknown> }[] = []
  const opened: { lastEventId: string | undefined }[] = []
  const hooks: { beforeStream?: () => Promise<void> } = {}
  let historyReads = 0

  function find(c: Context<Env>): Conversation {
    const conversation = conversations.get(c.req.param('id') ?? '')
    if (!conversation) throw new AppError('not_found', 'No such conversation')
    const given = c.req.header('authorization')
    if (given !== `Bearer ${conversation.token}`) throw new AppError('unauthenticated', 'This token has run out')
    return conversation
  }

  /** The conversation of a test that has only one. */
  function only(): Conversation {
    const conversation = [...conversations.values()].at(-1)
    if (!conversation) throw new Error('no conversation yet')
    return conversation
  }

  async function record(c: Context<Env>) {
    const body = (await c.req.json()) as Record<string, unknown>
    calls.push({ path: c.req.path, body })
    return body
  }

  function routes(app: Router) {
    app.post('/api/v1/agents', async (c) => {
      if (c.req.header('authorization') !== `Bearer ${KEY}`) throw new AppError('unauthenticated', 'No such key')
      const thread = String((await record(c)).thread)
      const known = [...conversations].find(([, { thread: other }]) => other === thread)
      const id = known?.[0] ?? `conv_${conversations.size + 1}`
      const token = `session_${id}_${calls.length}`
      const fresh = { thread, token, history: [], events: [], finished: 0, streams: new Set<ServerResponse>() }
      conversations.set(id, { ...(known?.[1] ?? fresh), token })
      return c.json({ success: true, agentId: id, conversationId: id, token, expiresAt: Date.now() + 86_400_000 }, 201)
    })
    app.post('/api/v1/agents/:id/messages', async (c) => {
      const { history } = find(c)
      const { messageId, content } = await record(c)
      const message = { id: String(messageId), type: 'message', role: 'user', content: String(content) }
      history.push({ ...message, timestamp: Date.now() })
      return c.json({ success: true, messageId, queued: true })
    })
    app.post('/api/v1/agents/:id/cancel', async (c) => {
      find(c)
      const { messageId } = await record(c)
      api.emit('complete', { messageId, processedMessageIds: [messageId], finalText: '', status: 'cancelled' })
      return c.json({ success: true })
    })
    app.get('/api/v1/agents/:id/history/session/messages', (c) => {
      historyReads++
      return c.json({ messages: find(c).history, nextCursor: null, hasMore: false, sessionId: 's' })
    })
    app.get('/api/v1/agents/:id/events', async (c) => {
      await hooks.beforeStream?.()
      const conversation = find(c)
      const lastEventId = c.req.header('last-event-id')
      opened.push({ lastEventId })
      const { outgoing } = c.env
      outgoing.writeHead(200, { 'content-type': 'text/event-stream' })
      outgoing.write(`event: connected\ndata: {"agentId":"${c.req.param('id')}"}\n\n`)
      const from = lastEventId === undefined ? conversation.finished : Number(lastEventId)
      for (let at = from; at < conversation.events.length; at++) write(outgoing, at, conversation.events[at])
      conversation.streams.add(outgoing)
      outgoing.on('close', () => conversation.streams.delete(outgoing))
      return RESPONSE_ALREADY_SENT
    })
  }

  function write(outgoing: ServerResponse, at: number, event: Conversation['events'][number] | undefined) {
    outgoing.write(`id: ${at + 1}\nevent: ${event?.name}\ndata: ${JSON.stringify(event?.data)}\n\n`)
  }

  const api = {
    routes,
    /** JSON bodies of the POST requests so far, with their paths. */
    calls,
    /** Event streams opened so far. */
    opened,
    /** `beforeStream` runs before a stream is answered. */
    hooks,
    historyReads: () => historyReads,
    messages: () => calls.filter(({ path }) => path.endsWith('/messages')).map(({ body }) => body),
    /** Appends one event to the conversation and sends it to its open streams. */
    emit(name: string, data: Record<string, unknown>) {
      const conversation = only()
      const event = { name, data: { type: name === 'output' ? 'delta' : name, timestamp: Date.now(), ...data } }
      conversation.events.push(event)
      for (const outgoing of conversation.streams) write(outgoing, conversation.events.length - 1, event)
      if (name !== 'complete') return
      conversation.finished = conversation.events.length
      const question = conversation.history.find(({ id }) => id === data.messageId)
      const fault = conversation.events.find((one) => one.name === 'error' && one.data.messageId === data.messageId)
      const error = fault ? { code: fault.data.code, message: fault.data.error } : null
      if (question) question.run = { runId: `r_${data.messageId}`, status: data.status, error }
      if (!data.finalText) return
      const answer = { id: `a_${data.messageId}`, type: 'message', role: 'assistant', content: String(data.finalText) }
      conversation.history.push({ ...answer, timestamp: Date.now() })
    },
    /** Sends an event without a number, such as `closed` or `reset`. */
    notify(name: string, data: Record<string, unknown>) {
      for (const outgoing of only().streams) outgoing.write(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`)
    },
    /** Cuts all open streams as a proxy or a network would; `retry` makes clients come back soon. */
    cutStreams() {
      const { streams } = only()
      for (const outgoing of streams) {
        streams.delete(outgoing)
        outgoing.write('retry: 10\n\n')
        outgoing.end()
      }
    },
    /** Makes the token that was handed out worthless, as its end of life would. */
    expireToken() {
      only().token = 'expired'
    },
  }
  return api
}
