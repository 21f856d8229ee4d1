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
  let fail = (_error: Error) => {}
  const gone = new AbortController()
  // Once and not for each beat: whoever waits for a promise is kept until it settles, which may take months.
  void lost.then(() => {
    gone.abort()
    fail(closed())
  })

  async function beat() {
    if (gone.signal.aborted) throw closed()
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    answered = resolve
    fail = reject
    const timer = setTimeout(() => reject(new Error('the LISTEN connection hears nothing')), answerMs)
    send().catch(reject)
    await promise.finally(() => clearTimeout(timer))
  }

  return {
    beat,
    heard: () => answered(),
    async keepBeating(signal) {
      const either = AbortSignal.any([gone.signal, signal])
      while (!signal.aborted) {
        await pause(jitter(everyMs), either)
        if (!signal.aborted) await beat()
      }
    },
  }
}

function closed(): Error {
  return new Error('the LISTEN connection was closed')
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
