/**
 * Balancers ask every few seconds and believe the second or third refusal. A process in a terminal has none in front of
 * it, so development waits for nobody.
 */
export const PRODUCTION_WAIT_SECONDS = 10
/** What requests have behind the turns, even where those took all of their grace. */
const REQUESTS_MS = 10_000
/** Ending idle workers, the last passes of the loops, closing the database, and what telemetry has not sent yet. */
const CLOSING_MS = 5_000

/** When what is over, counted from the signal. Whoever kills a process that does not end must leave it `totalMs`. */
export interface ShutdownTimes {
  /** Everything goes on, but readiness says no. */
  waitMs: number
  /** Behind it, turns may finish. */
  graceMs: number
  /** Requests that are under way then are cut: they have what the turns have left. */
  requestsEndMs: number
  /** The process exits, whatever still hangs. */
  totalMs: number
}

/** The one place where the times of a stop are added up; docs/operations.md states the sum. */
export function shutdownTimes({ waitMs, graceMs }: { waitMs: number; graceMs: number }): ShutdownTimes {
  const requestsEndMs = waitMs + graceMs + REQUESTS_MS
  return { waitMs, graceMs, requestsEndMs, totalMs: requestsEndMs + CLOSING_MS }
}
