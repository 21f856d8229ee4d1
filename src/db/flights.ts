import type { DriverQuery } from './driver-query.ts'
import { translateError } from './errors.ts'

/** The queries that the driver has and that are not answered yet. */
export interface Flights {
  /** Lets the driver have the query. `landed` is called once, however often the driver answers, with the error if there was one. */
  takeOff(query: DriverQuery, landed: (error?: unknown) => void): void
  /** Age in milliseconds of the query that has been unanswered for longest; 0 when there is none. */
  oldestMs(): number
  /** Fails the queries that the driver has taken but not sent. */
  failUnsent(error: Error): void
}

/** Errors of the connection reach the caller as `AppError('database_unavailable')`; `onError` sees the driver's own. */
export function createFlights(onError: (error: unknown) => void): Flights {
  /** By take-off, which is the order of insertion. */
  const since = new Map<DriverQuery, number>()

  return {
    takeOff(query, landed) {
      const { handler, resolve, reject } = query
      let over = false
      const land = (error?: unknown) => {
        if (over) return
        over = true
        since.delete(query)
        if (error !== undefined) onError(error)
        landed(error)
      }
      query.resolve = (value) => {
        resolve(value)
        land()
      }
      query.reject = (error) => {
        reject(translateError(error))
        land(error)
      }
      since.set(query, performance.now())
      handler(query)
    },

    oldestMs() {
      for (const start of since.values()) return performance.now() - start
      return 0
    },

    failUnsent(error) {
      for (const query of [...since.keys()].filter(({ state }) => state === null)) {
        query.reject(error)
        // Takes it out of the driver's queue as well.
        query.cancel()
      }
    },
  }
}
