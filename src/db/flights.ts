import type { DriverQuery, Tx } from './driver-query.ts'
import { translateError } from './errors.ts'

/** What the driver has and what is not answered yet: queries, and the statements that it sends by itself. */
export interface Flights {
  /** Lets the driver have the query. `landed` is called once, however often the driver answers, with the error if there was one. */
  takeOff(query: DriverQuery, landed: (error?: unknown) => void, options?: TakeOffOptions): void
  /**
   * Runs what has a statement of the driver's own before the work and one after it, such as BEGIN and COMMIT; while the
   * work itself runs, nothing is counted.
   */
  around<T>(start: (work: (tx: Tx) => Promise<unknown>) => Promise<T>, work: (tx: Tx) => Promise<unknown>): Promise<T>
  /** Age in milliseconds of what has been unanswered for longest; 0 when there is none. */
  oldestMs(): number
  /** Fails the queries that the driver has taken but not sent, but for those of open transactions. */
  failUnsent(error: Error): void
  /** Fails all of it: nothing more will be answered. */
  failAll(error: Error): void
}

export interface TakeOffOptions {
  /** It waits for nothing but the connection that its transaction has, and ends with that. */
  inTransaction?: boolean
}

/** A query, or a statement of the driver's own. */
type Flight = DriverQuery | { reject(error: unknown): void }

/** Errors of the connection reach the caller as `AppError('database_unavailable')`; `onError` sees the driver's own. */
export function createFlights(onError: (error: unknown) => void): Flights {
  /** By take-off, which is the order of insertion. */
  const since = new Map<Flight, number>()
  const inTransactions = new WeakSet<Flight>()

  return {
    takeOff(query, landed, { inTransaction = false } = {}) {
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
      if (inTransaction) inTransactions.add(query)
      handler(query)
    },

    around(start, work) {
      const { promise: failed, reject } = Promise.withResolvers<never>()
      let over = false
      const statement = {
        reject(error: unknown) {
          over = true
          reject(error)
        },
      }
      since.set(statement, performance.now())
      const between = async (tx: Tx) => {
        since.delete(statement)
        // The caller has been told that it failed: what it may do again must not happen here as well.
        if (over) throw new Error('the transaction was given up before it began')
        try {
          return await work(tx)
        } finally {
          // A connection that died meanwhile has ended all of this already.
          if (!over) since.set(statement, performance.now())
        }
      }
      return Promise.race([start(between), failed]).finally(() => {
        over = true
        since.delete(statement)
      })
    },

    oldestMs() {
      for (const start of since.values()) return performance.now() - start
      return 0
    },

    failUnsent(error) {
      for (const query of [...since.keys()].filter(isUnsent)) {
        if (inTransactions.has(query)) continue
        query.reject(error)
        // Takes it out of the driver's queue as well.
        query.cancel()
      }
    },

    failAll(error) {
      for (const flight of [...since.keys()]) flight.reject(error)
    },
  }
}

function isUnsent(flight: Flight): flight is DriverQuery {
  return 'state' in flight && flight.state === null
}
