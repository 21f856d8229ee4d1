/**
 * Resolves to true when `promise` settles within `ms` milliseconds, to false when it does not, or when `signal` aborts before.
 * Never rejects.
 */
export function settlesWithin(promise: Promise<unknown>, ms: number, signal?: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    const end = (settled: boolean) => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', giveUp)
      resolve(settled)
    }
    const giveUp = () => end(false)
    const timer = setTimeout(giveUp, ms)
    const done = () => end(true)
    promise.then(done, done)
    if (signal?.aborted) giveUp()
    else signal?.addEventListener('abort', giveUp, { once: true })
  })
}
