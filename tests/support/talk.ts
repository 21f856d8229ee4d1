import { onTestFinished } from 'vitest'
import type { Seen } from './checker.ts'
import type { Call, Cluster, Conversation } from './cluster.ts'
import { until } from './gateway.ts'

/** What clients are told, or meet, while something is away: they ask again. Everything else is a fault. */
const AWAY = /\b50[23]\b|ECONNRESET|ECONNREFUSED|EPIPE|socket hang up/
/** Longer than any outage that a test makes. */
const PATIENCE_MS = 120_000

/**
 * Asks until it is accepted, as clients do that were told `Retry-After` or lost their connection. Only for requests that
 * may be repeated: a message needs an id of the client's own.
 */
export function untilAccepted<T>(ask: () => Promise<T>, away = AWAY): Promise<NonNullable<T>> {
  const tried = () =>
    ask().catch((error: NodeJS.ErrnoException) => {
      if (away.test(`${error.code} ${error.message}`)) return undefined
      throw error
    })
  return until(tried, 'the request is accepted', PATIENCE_MS)
}

export interface TalkOptions {
  /** Part of all markers, so it must be unique among the clients that are checked together. */
  name: string
  /** Asked before each turn but the first. */
  goOn(turn: number): boolean
  /** What to say; the marker is part of it, or at least of the answer. */
  content?(marker: string): string
  /** What it may meet and ask again. Null: nothing, every request must be accepted at once. */
  away?: RegExp | null
  /** Of the opening: whose key, for example. */
  call?: Call
}

/**
 * One client: says one thing after the other on one stream that it keeps, and waits for each answer. Resolves with all it
 * saw. Where its test is over before it is done, because it failed, the client ends with it.
 */
export function talk(cluster: Cluster, options: TalkOptions): Promise<Seen> {
  const over = new AbortController()
  const seen: Seen = { name: options.name, acknowledged: [], events: [], after: 0 }
  const talking = speak(cluster, options, { seen, signal: over.signal }).catch((error) => {
    if (!over.signal.aborted) throw error
    return seen
  })
  onTestFinished(async () => {
    over.abort()
    await talking.catch(() => {})
  })
  return talking
}

async function speak(
  cluster: Cluster,
  options: TalkOptions,
  { seen, signal }: { seen: Seen; signal: AbortSignal },
): Promise<Seen> {
  const { name, goOn, away = AWAY } = options
  const { random } = cluster
  const { acknowledged } = seen
  async function ask<T>(work: () => Promise<T>): Promise<NonNullable<T>> {
    const asked = () => {
      signal.throwIfAborted()
      return work()
    }
    return away ? untilAccepted(asked, away) : ((await asked()) as NonNullable<T>)
  }
  const say = options.content ?? ((marker) => `/echo ${marker} /words 30 /delay ${random.pick([1, 5, 20])}`)
  const conversation = await ask(() => cluster.open({ thread: name }, options.call))
  // From the start, and not fresh: a fresh stream that breaks before it showed anything comes back as another fresh one,
  // and those show no turn that ended more than half a minute ago.
  const follower = await ask(() => conversation.follow({ lastEventId: 0 }))
  for (let turn = 1; turn === 1 || goOn(turn); turn++) {
    const marker = `marker-${name}-${turn}`
    // Asked again, it is the same message.
    const content = say(marker)
    const { messageId } = await ask(() => conversation.send(content, { messageId: marker }))
    acknowledged.push({ messageId, marker })
    const events = () => {
      signal.throwIfAborted()
      return follower.events()
    }
    await untilEnded(cluster, conversation, events, messageId)
  }
  await follower.stop()
  return { ...seen, events: follower.events(), faults: follower.faults }
}

/** Resolves when the stream has shown the end of this message. Rejects with what the run says of itself when it does not. */
async function untilEnded(cluster: Cluster, { id }: Conversation, events: () => Seen['events'], messageId: string) {
  const isOver = () => events().some(({ name, data }) => name === 'complete' && data.messageId === messageId)
  await until(isOver, `${messageId} ends`, PATIENCE_MS).catch(async (error: Error) => {
    const rows = await cluster.database.sql`
      select state, attempt, fence, replica, due_at, ended_at, start_seq, end_seq from runs
      where conversation_id = ${id} and message_id = ${messageId}`
    const last = events().at(-1)
    throw new Error(`${error.message}; its run is ${JSON.stringify(rows[0])}, the last event ${JSON.stringify(last)}`)
  })
}
