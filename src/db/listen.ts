import { randomBytes } from 'node:crypto'
import { backoffMs } from '../lib/backoff.ts'
import { errorLine } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import type { Sql } from './driver-query.ts'
import { createHeartbeat, pause } from './heartbeat.ts'
import { createSubscriptions } from './subscriptions.ts'

/** Postgres cuts a longer name with a notice only, and pg_notify refuses it: the two ends would never meet. */
const CHANNEL_BYTES_MAX = 63
/** A half-open connection looks alive for many minutes. A NOTIFY to ourselves every so often proves the whole way. */
const PING_MS = 15_000
const PING_ANSWER_MS = 5_000
const RETRY_MS_MAX = 1_000

export interface Listener {
  /** See `Database.listen`. */
  listen(channel: string, onPayload: (payload: string) => void, onReady: () => void): Promise<() => Promise<void>>
  /** True while LISTEN is in force and has been proven by a notification to ourselves. */
  listening(): boolean
  close(): Promise<void>
}

export interface ListenerOptions {
  /** Makes an unconnected client of one connection; both hooks are called by the driver. */
  connect(hooks: { onnotify(channel: string, payload: string): void; onclose(): void }): Sql
  pingMs?: number
  pingAnswerMs?: number
}

/**
 * One LISTEN connection for the whole process, made with the first subscription and made again whenever it is lost.
 *
 *   idle ──first listen──► connecting ──LISTEN, and the ping came back──► listening
 *                           ▲    │ fails                                     │ closed, or a ping unanswered
 *                           └────┴───────── after 50 ms … 1 s ◄──────────────┘
 */
export function createListener({ log }: { log: Logger }, options: ListenerOptions): Listener {
  const subscriptions = createSubscriptions((error) => log.error({ error: errorLine(error) }, 'a listener failed'))
  const stopping = new AbortController()
  const firstTry = Promise.withResolvers<void>()
  let client: Sql | undefined
  let loop: Promise<void> | undefined

  const onListening = (sql: Sql) => {
    client = sql
    subscriptions.announce()
    firstTry.resolve()
  }

  async function run() {
    let failures = 0
    while (!stopping.signal.aborted) {
      try {
        await listenUntilLost(
          { ...options, channels: subscriptions.channels, deliver: subscriptions.deliver },
          stopping.signal,
          (sql) => {
            failures = 0
            onListening(sql)
          },
        )
      } catch (error) {
        // Once for an outage, however long it lasts.
        if (failures === 0) log.warn({ error: errorLine(error) }, 'LISTEN lost; polling until it is back')
      }
      client = undefined
      firstTry.resolve()
      failures += 1
      await pause(backoffMs(failures, { baseMs: 50, maxMs: RETRY_MS_MAX }), stopping.signal)
    }
  }

  return {
    async listen(channel, onPayload, onReady) {
      if (Buffer.byteLength(channel) > CHANNEL_BYTES_MAX) throw new Error(`channel ${channel} is longer than 63 bytes`)
      const subscription = { onPayload, onReady }
      subscriptions.add(channel, subscription)
      loop ??= run()
      // If this fails, so does the connection, and the loop subscribes to everything again.
      if (client === undefined) await firstTry.promise
      else
        await client.unsafe(`listen ${quote(channel)}`).then(
          () => subscriptions.announce(subscription),
          () => {},
        )
      return async () => {
        if (subscriptions.remove(channel, subscription))
          await client?.unsafe(`unlisten ${quote(channel)}`).catch(() => {})
      }
    },

    listening: () => client !== undefined,

    async close() {
      stopping.abort()
      firstTry.resolve()
      await loop
    },
  }
}

interface Connecting extends ListenerOptions {
  channels(): string[]
  deliver(channel: string, payload: string): void
}

/** One connection's life. Resolves when the signal aborts; rejects when the connection fails or is lost. */
async function listenUntilLost(
  options: Connecting,
  signal: AbortSignal,
  onListening: (sql: Sql) => void,
): Promise<void> {
  const pingChannel = `lobu_ping_${randomBytes(8).toString('hex')}`
  const lost = Promise.withResolvers<void>()
  const sql = options.connect({
    onnotify: (channel, payload) => (channel === pingChannel ? heartbeat.heard() : options.deliver(channel, payload)),
    onclose: lost.resolve,
  })
  const heartbeat = createHeartbeat({
    everyMs: options.pingMs ?? PING_MS,
    answerMs: options.pingAnswerMs ?? PING_ANSWER_MS,
    send: () => sql.unsafe(`select pg_notify('${pingChannel}', '')`),
    lost: lost.promise,
  })
  const abort = () => void sql.end({ timeout: 0 })
  signal.addEventListener('abort', abort, { once: true })
  try {
    await sql.unsafe(`listen ${quote(pingChannel)}`)
    await heartbeat.beat()
    await listenToAll(sql, options.channels)
    onListening(sql)
    await heartbeat.keepBeating(signal)
  } catch (error) {
    if (!signal.aborted) throw error
  } finally {
    signal.removeEventListener('abort', abort)
    await sql.end({ timeout: 0 })
  }
}

/** Until there is none left: others may subscribe meanwhile, who would otherwise be told that they are heard. */
async function listenToAll(sql: Sql, channels: () => string[]): Promise<void> {
  const done = new Set<string>()
  for (;;) {
    const missing = channels().filter((name) => !done.has(name))
    if (missing.length === 0) return
    await Promise.all(missing.map((name) => sql.unsafe(`listen ${quote(name)}`)))
    for (const name of missing) done.add(name)
  }
}

/** For a database where LISTEN cannot work: everybody is ready at once and must poll. */
export function createMuteListener(): Listener {
  return {
    async listen(_channel, _onPayload, onReady) {
      onReady()
      return async () => {}
    },
    listening: () => false,
    async close() {},
  }
}

const quote = (name: string) => `"${name.replaceAll('"', '""')}"`
