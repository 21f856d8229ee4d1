import { jitter } from '../lib/backoff.ts'

/** Proves again and again that a LISTEN connection hears what is notified, by notifying itself. */
export interface Heartbeat {
  /** Sends one and waits for it. @throws Error when it does not come in time, or the connection is lost. */
  beat(): Promise<void>
  /** To be called for each notification on the heartbeat's channel. */
  heard(): void
  /** Beats until the signal aborts; rejects as `beat` does. */
  keepBeating(signal: AbortSignal): Promise<void>
}

export interface HeartbeatOptions {
  everyMs: number
  answerMs: number
  /** Sends a notification on the heartbeat's channel, on the connection itself. */
  send(): Promise<unknown>
  /** Resolves when the connection is closed. */
  lost: Promise<void>
}

export function createHeartbeat({ everyMs, answerMs, send, lost }: HeartbeatOptions): Heartbeat {
  let answered = () => {}

  async function beat() {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    answered = resolve
    const timer = setTimeout(() => reject(new Error('the LISTEN connection hears nothing')), answerMs)
    void lost.then(() => reject(new Error('the LISTEN connection was closed')))
    send().catch(reject)
    await promise.finally(() => clearTimeout(timer))
  }

  return {
    beat,
    heard: () => answered(),
    async keepBeating(signal) {
      const gone = new AbortController()
      void lost.then(() => gone.abort())
      const either = AbortSignal.any([gone.signal, signal])
      while (!signal.aborted) {
        await pause(jitter(everyMs), either)
        if (!signal.aborted) await beat()
      }
    },
  }
}

/** Resolves after the time, or at once when the signal aborts. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
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
