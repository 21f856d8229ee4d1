import { onTestFinished } from 'vitest'
import { until } from './gateway.ts'
import { connectSse, type SseClient, type SseEvent } from './sse-client.ts'

export interface FollowOptions {
  token: string
  /** Position to begin behind; without it the stream is fresh. */
  lastEventId?: number | undefined
  /** Resumes by `?lastEventId=` and not by the header. */
  inQuery?: boolean
  /** Bytes after which the nth connection, counted from 0, is cut. */
  cutAfter?(connection: number): number | undefined
}

/** A client that comes back: whenever its connection is over it opens another one behind the last event it has. */
export interface Follower {
  /** All that came, over all connections, in order. */
  events(): SseEvent[]
  /** What broke the format. */
  readonly faults: string[]
  /** Connections that were answered with a stream, the current one last. */
  readonly connections: SseClient[]
  /** Resolves with the first event, also one that has come already, for which this holds. */
  until(fits: (event: SseEvent) => boolean, what: string): Promise<SseEvent>
  /** Resolves with the `complete` of this message. */
  completed(messageId: string): Promise<SseEvent>
  /** Resolves when so much text of this message has come, and returns it. */
  streamed(messageId: string, words: number): Promise<string>
  isOver(): boolean
  /** Closes it, and resolves when its connection is gone. */
  stop(): Promise<void>
}

/**
 * Resolves when the first connection is open; rejects when that is refused. It ends by `stop`, at a `closed` event, when
 * coming back is refused for good, or with its test, however that ends.
 */
export async function followEvents(url: string, options: FollowOptions): Promise<Follower> {
  const connections: SseClient[] = []
  const faults: string[] = []
  let isStopped = false
  let isOver = false
  let running: Promise<void> | undefined

  async function connect(): Promise<SseClient> {
    const position = connections.findLast((one) => one.lastEventId !== undefined)?.lastEventId ?? options.lastEventId
    const target = new URL(url)
    if (options.inQuery && position !== undefined) target.searchParams.set('lastEventId', String(position))
    const cutAfterBytes = options.cutAfter?.(connections.length)
    const client = await connectSse(target.href, {
      headers: { authorization: `Bearer ${options.token}` },
      ...(position === undefined || options.inQuery ? {} : { lastEventId: position }),
      ...(cutAfterBytes === undefined ? {} : { cutAfterBytes }),
    })
    if (client.status !== 200) {
      client.cut()
      // A replica on its way out says 503, and the proxy 502. Everything else is final.
      isStopped ||= ![502, 503].includes(client.status)
      throw new Error(`the stream was answered with ${client.status}`)
    }
    connections.push(client)
    if (isStopped) client.cut()
    return client
  }

  async function run(first: SseClient) {
    for (let client: SseClient | undefined = first; ; client = await connect().catch(() => undefined)) {
      await client?.closed.catch((error: Error) => faults.push(error.message))
      isStopped ||= client?.all.at(-1)?.name === 'closed'
      if (!isStopped) await new Promise((resolve) => setTimeout(resolve, 20))
      if (isStopped) break
    }
    isOver = true
  }

  async function stop() {
    isStopped = true
    if (!isOver) connections.at(-1)?.leave()
    await running
  }

  onTestFinished(stop)
  running = run(await connect())
  const events = () => connections.flatMap((client) => client.all)
  const follower: Follower = {
    events,
    faults,
    connections,
    isOver: () => isOver,
    until: (fits, what) =>
      until(() => {
        for (const client of connections) {
          const found = client.all.find(fits)
          if (found) return found
        }
        if (isOver) throw new Error(`the stream ended before it showed ${what}`)
        return undefined
      }, `the stream shows ${what}`),
    completed: (messageId) =>
      follower.until(
        (event) => event.name === 'complete' && event.data.messageId === messageId,
        `the end of ${messageId}`,
      ),
    streamed: (messageId, words) =>
      until(() => {
        const text = streamedText(events(), messageId)
        return text.split(' ').length > words ? text : undefined
      }, `${words} words of ${messageId} are streamed`),
    stop,
  }
  return follower
}

/** The text that was streamed for a message. */
export function streamedText(events: SseEvent[], messageId: string): string {
  return events
    .filter((event) => event.name === 'output' && event.data.messageId === messageId)
    .map((event) => event.data.content)
    .join('')
}
