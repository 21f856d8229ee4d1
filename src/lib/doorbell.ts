/** A wake-up that is remembered: a ring that comes before the wait ends that wait at once. */
export interface Doorbell {
  ring(): void
  /** Resolves at the next ring, after `ms` milliseconds, or when `signal` aborts; never rejects. */
  wait(ms: number, signal: AbortSignal): Promise<void>
}

export function createDoorbell(): Doorbell {
  let rung = false
  let wake: (() => void) | undefined
  return {
    ring() {
      rung = true
      wake?.()
    },
    wait(ms, signal) {
      return new Promise<void>((resolve) => {
        const done = () => {
          clearTimeout(timer)
          signal.removeEventListener('abort', done)
          wake = undefined
          rung = false
          resolve()
        }
        const timer = setTimeout(done, ms)
        if (rung || signal.aborted) return done()
        wake = done
        signal.addEventListener('abort', done, { once: true })
      })
    },
  }
}
