import { onTestFinished } from 'vitest'
import type { Seen } from './checker.ts'
import { type Answer, type Cluster, type Conversation, sendRequest } from './cluster.ts'
import type { Follower } from './follower.ts'
import { until } from './gateway.ts'
import { untilAccepted } from './talk.ts'

/** Requests that may be under way at once. More come from nobody but a machine that is too slow for the rate. */
const UNDER_WAY_MAX = 50

export interface Load {
  /** Answers by kind of request and status; `failed` are those that got none. */
  readonly counts: Map<string, number>
  /** Answers that are neither success nor a refusal in order, with a time to come back. */
  readonly faults: string[]
  /** Refusals so far, and how long the slowest of them took to come. */
  refusals(): { count: number; slowestMs: number }
  /** Resolves when so many more requests were answered with success. */
  served(count: number): Promise<void>
  /** Ends it, as the end of its test does in any case; waits for all turns, and resolves with what each client saw. */
  stop(): Promise<Seen[]>
}

interface Poster extends Seen {
  conversation: Conversation
  follower: Follower
  /** Sent, and not acknowledged yet: sent again as it was, since it may have been taken. */
  open: string | undefined
  isSending: boolean
}

/**
 * So many requests a second, as far as the machine can serve them: messages to conversations whose streams are open, a
 * quarter of all, and questions. Conversations have one message under way at most, so that their order is known.
 */
export async function startLoad(
  cluster: Cluster,
  { perSecond, conversations, name }: { perSecond: number; conversations: number; name: string },
): Promise<Load> {
  const posters = await Promise.all(
    Array.from({ length: conversations }, async (_, at): Promise<Poster> => {
      const own = `${name}-${at}`
      const conversation = await cluster.open({ thread: own })
      const follower = await conversation.follow({ lastEventId: 0 })
      const seen: Seen = { name: own, acknowledged: [], events: [], after: 0 }
      return { ...seen, conversation, follower, open: undefined, isSending: false }
    }),
  )
  const counts = new Map<string, number>()
  const faults: string[] = []
  const underWay = new Set<Promise<void>>()
  const refusals = { count: 0, slowestMs: 0 }
  let served = 0

  function note(kind: string, answer: Answer | Error, sentAt: number) {
    const status = answer instanceof Error ? 'failed' : answer.status
    counts.set(`${kind} ${status}`, (counts.get(`${kind} ${status}`) ?? 0) + 1)
    if (answer instanceof Error) faults.push(`${kind}: ${answer.message}`)
    else if (answer.status === 200) served++
    else if (answer.status !== 503 || answer.headers['retry-after'] === undefined)
      faults.push(`${kind}: ${answer.status} ${answer.text}`)
    else {
      refusals.count++
      refusals.slowestMs = Math.max(refusals.slowestMs, performance.now() - sentAt)
    }
  }

  async function post(poster: Poster) {
    poster.isSending = true
    poster.open ??= `marker-${poster.name}-${poster.acknowledged.length + 1}`
    const content = `/echo ${poster.open}`
    const sentAt = performance.now()
    const answer = await poster.conversation.post({ content, messageId: poster.open }).catch((error: Error) => error)
    note('message', answer, sentAt)
    if (!(answer instanceof Error) && answer.status === 200) {
      poster.acknowledged.push(said(poster.open))
      poster.open = undefined
    }
    poster.isSending = false
  }

  async function ask({ conversation: { id } }: Poster) {
    const path = cluster.random.pick([`/api/v1/agents/${id}`, `/api/v1/agents/${id}/history/session/messages`])
    const url = `${cluster.proxy.url}${path}`
    const sentAt = performance.now()
    note('question', await sendRequest('GET', url, { token: cluster.key }).catch((error: Error) => error), sentAt)
  }

  let due = 0
  let last = performance.now()
  const timer = setInterval(() => {
    const now = performance.now()
    due = Math.min(due + ((now - last) * perSecond) / 1000, perSecond)
    last = now
    for (; due >= 1 && underWay.size < UNDER_WAY_MAX; due--) {
      const poster = cluster.random.pick(posters)
      const work = cluster.random.next() < 0.25 && !poster.isSending ? post(poster) : ask(poster)
      underWay.add(work)
      void work.finally(() => underWay.delete(work))
    }
  }, 10)

  async function halt() {
    clearInterval(timer)
    await Promise.all(underWay)
  }
  onTestFinished(halt)

  async function finish(poster: Poster): Promise<Seen> {
    const { conversation, follower, name: own, acknowledged } = poster
    // What was not acknowledged may have been taken; the client that asks again is told so.
    if (poster.open !== undefined) {
      const messageId = poster.open
      await untilAccepted(() => conversation.send(`/echo ${messageId}`, { messageId }))
      acknowledged.push(said(messageId))
    }
    const end = acknowledged.at(-1)
    if (end) await until(() => follower.events().some(isEndOf(end.messageId)), `${end.messageId} ends`, 120_000)
    await follower.stop()
    return { name: own, acknowledged, events: follower.events(), faults: follower.faults, after: 0 }
  }

  return {
    counts,
    faults,
    refusals: () => ({ ...refusals }),
    async served(count) {
      const from = served
      await until(() => served >= from + count, `${count} more requests are served`, 120_000)
    },
    async stop() {
      await halt()
      return Promise.all(posters.map(finish))
    },
  }
}

const isEndOf = (messageId: string) => (event: Seen['events'][number]) =>
  event.name === 'complete' && event.data.messageId === messageId

/** The message whose id is what it asks for. */
const said = (marker: string) => ({ messageId: marker, answer: marker, marker })
