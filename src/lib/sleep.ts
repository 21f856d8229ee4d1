/** Resolves after `ms` milliseconds, or as soon as `signal` aborts; never rejects. It does not keep the process alive. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms).unref()
    if (signal?.aborted) done()
    else signal?.addEventListener('abort', done, { once: true })
  })
}
