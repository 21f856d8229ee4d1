/**
 * Exponential wait with full jitter, so that callers who failed together do not come back together.
 *
 * @param attempt 1 for the wait after the first failure.
 * @returns milliseconds between 0.5× and 1× of `baseMs * 2^(attempt-1)`, at most `maxMs`.
 */
export function backoffMs(attempt: number, { baseMs = 500, maxMs = 30_000 } = {}): number {
  const ceiling = Math.min(maxMs, baseMs * 2 ** Math.min(attempt - 1, 20))
  return Math.round(ceiling * (0.5 + Math.random() / 2))
}

/** A period spread by ±20 %, so that the loops of many replicas do not march in step. */
export function jitter(ms: number): number {
  return Math.round(ms * (0.8 + Math.random() * 0.4))
}
