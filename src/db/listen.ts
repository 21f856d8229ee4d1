import { randomBytes } from 'node:crypto'
import type { Logger } from 'pino'
import { backoffMs, jitter } from '../lib/backoff.ts'
import { errorLine } from '../lib/errors.ts'
import type { Sql } from './guard.ts'

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

interface Subscription {
  onPayload(payload: string): void
  onReady(): void
}

/**
 * One LISTEN connection for the whole process, made with the first subscription and made again whenever it is lost.
 *
 *   idle ──first listen──► connecting ──LISTEN, and the ping came back──► listening
 *                           ▲    │ fails                                     │ closed, or a ping unanswered
 *                           └────┴───────── after 50 ms … 1 s ◄──────────────┘
 */
export function createListener({ log }: { log: Logger }, options: ListenerOptions): Listener {
  const { connect, pingMs = PING_MS, pingAnswerMs = PING_ANSWER_MS } = options
  const subscriptions = new Map<string, Set<Subscription>>()
  const pingChannel = `lobu_ping_${randomBytes(8).toString('hex')}`
  const stopping = new AbortController()
  let client: Sql | undefined
  let ready = false
  let ponged = () => {}
  const firstTry = deferred()
  let loop: Promise<void> | undefined

  function deliver(channel: string, payload: string) {
    if (channel === pingChannel) return ponged()
    for (const subscription of subscriptions.get(channel) ?? []) safely(() => subscription.onPayload(payload))
  }

  function safely(call: () => void) {
    try {
      call()
    } catch (error) {
      log.error({ error: errorLine(error) }, 'a listener failed')
    }
  }

  async function run() {
    for (let attempt = 1; !stopping.signal.aborted; attempt++) {
      const lost = deferred()
      const mine = connect({ onnotify: deliver, onclose: lost.resolve })
      client = mine
      try {
        const channels = [pingChannel, ...subscriptions.keys()]
        await Promise.all(channels.map((name) => mine.unsafe(`listen ${quote(name)}`)))
        await ping(mine, lost.promise)
        ready = true
        attempt = 0
        for (const group of subscriptions.values()) for (const one of group) safely(one.onReady)
        firstTry.resolve()
        await watch(mine, lost.promise)
      } catch (error) {
        if (!stopping.signal.aborted) log.warn({ error: errorLine(error) }, 'LISTEN lost; polling until it is back')
      }
      ready = false
      client = undefined
      firstTry.resolve()
      await mine.end({ timeout: 0 })
      await pause(backoffMs(Math.max(1, attempt), { baseMs: 50, maxMs: RETRY_MS_MAX }), stopping.signal)
    }
  }

  /** Comes back when the connection is lost or we stop; rejects when a ping is not answered. */
  async function watch(mine: Sql, lost: Promise<void>) {
    const gone = new AbortController()
    void lost.then(() => gone.abort())
    const signal = AbortSignal.any([gone.signal, stopping.signal])
    while (!signal.aborted) {
      await pause(jitter(pingMs), signal)
      if (!signal.aborted) await ping(mine, lost)
    }
    if (!stopping.signal.aborted) throw new Error('the connection was closed')
  }

  async function ping(mine: Sql, lost: Promise<void>) {
    const pong = deferred()
    const late = deferred<string>()
    ponged = pong.resolve
    const timer = setTimeout(() => late.resolve('no answer in time'), pingAnswerMs)
    const sent = mine.unsafe(`select pg_notify('${pingChannel}', '')`)
    const failed = sent.then(
      () => new Promise<never>(() => {}),
      (error: unknown) => {
        throw error
      },
    )
    const fault = await Promise.race([pong.promise, late.promise, lost.then(() => 'closed'), failed])
    clearTimeout(timer)
    if (typeof fault === 'string') throw new Error(`the LISTEN connection is dead: ${fault}`)
  }

  return {
    async listen(channel, onPayload, onReady) {
      if (Buffer.byteLength(channel) > CHANNEL_BYTES_MAX) throw new Error(`channel ${channel} is longer than 63 bytes`)
      const subscription = { onPayload, onReady }
      const group = subscriptions.get(channel) ?? new Set()
      subscriptions.set(channel, group.add(subscription))
      if (loop === undefined) {
        loop = run()
        await firstTry.promise
      } else if (ready && client !== undefined) {
        // If this fails, so does the connection, and the loop subscribes to everything again.
        await client.unsafe(`listen ${quote(channel)}`).then(onReady, () => {})
      }
      return async () => {
        group.delete(subscription)
        if (group.size > 0 || subscriptions.get(channel) !== group) return
        subscriptions.delete(channel)
        if (ready) await client?.unsafe(`unlisten ${quote(channel)}`).catch(() => {})
      }
    },

    listening: () => ready,

    async close() {
      stopping.abort()
      firstTry.resolve()
      await client?.end({ timeout: 0 })
      await loop
    },
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

function deferred<T = void>() {
  let resolve!: (value: T) => void
  const promise = new Promise<T>((settle) => {
    resolve = settle
  })
  return { promise, resolve }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve()
    const done = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal.addEventListener('abort', done, { once: true })
  })
}
