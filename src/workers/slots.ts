/** A bounded number of places, given out in the order of asking. */
export interface Slots {
  readonly max: number
  /** Takes a place, waiting for one. False when `signal` aborts first, too many wait already, or it is closed. */
  take(signal: AbortSignal): Promise<boolean>
  /** Takes a place if one is free and nobody waits. */
  tryTake(): boolean
  release(): void
  /** Places taken and asked for. */
  wanted(): number
  /** Lets nobody in any more; who waits is sent away. */
  close(): void
}

const WAITING_MAX = 1000

export function createSlots(max: number): Slots {
  const waiting = new Set<(taken: boolean) => void>()
  let taken = 0
  let closed = false

  function tryTake() {
    if (closed || taken >= max || waiting.size > 0) return false
    taken++
    return true
  }

  return {
    max,
    tryTake,
    async take(signal) {
      if (signal.aborted) return false
      if (tryTake()) return true
      if (closed || waiting.size >= WAITING_MAX) return false
      return new Promise((resolve) => {
        const settle = (isTaken: boolean) => {
          waiting.delete(settle)
          signal.removeEventListener('abort', onAbort)
          resolve(isTaken)
        }
        const onAbort = () => settle(false)
        signal.addEventListener('abort', onAbort, { once: true })
        waiting.add(settle)
      })
    },
    release() {
      const [next] = waiting
      // The place goes from hand to hand: nobody who comes now can get in between.
      if (next && !closed) next(true)
      else taken--
    },
    wanted: () => taken + waiting.size,
    close() {
      closed = true
      for (const settle of [...waiting]) settle(false)
    },
  }
}
