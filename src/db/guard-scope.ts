import type { DriverQuery } from './driver-query.ts'
import type { Pool } from './replaceable-pool.ts'

/** A statement that runs in a transaction of its own, behind what sets its scope. */
export interface ScopedStatement {
  /** Begins the transaction and sets what holds in it: several statements of plain text, below 1,000 bytes. */
  opening: string
  strings: TemplateStringsArray
  args: never[]
}

/** Runs one in two round trips. Missing on a client whose transactions need more than that. */
export const RUN_SCOPED = Symbol('run scoped')
export type RunScoped = (statement: ScopedStatement) => Promise<unknown>

/** The server has dropped the plan of a prepared statement; the statement did nothing. Ask again, in an ordinary transaction. */
export const STALE_PLAN = new Error('the plan of a prepared statement is out of date')

/** A connection of the driver (postgres 3.4.9), as far as it is used here; `begin` of the driver works in the same way. */
interface DriverConnection {
  /** Returns false when nothing more may be sent before this is answered. */
  execute(query: DriverQuery): unknown
  /** Asked at the end of each answer while a transaction is open; the driver forgets it, and frees the connection, when none is. */
  reserved: (() => void) | null
}

/** A query that is handed to the driver here and by nobody else. */
type OwnQuery = DriverQuery & { executed?: boolean; cancelled?: object }

/**
 * A statement whose plan is out of date the driver sends again by itself: behind COMMIT, and so outside of the scope. It notes that
 * it does so, and sends nothing that is cancelled; so it reports instead. Any other error comes as it is.
 */
function reportStalePlan(statement: OwnQuery) {
  Object.defineProperty(statement, 'retried', {
    get: () => undefined,
    set() {
      statement.cancelled = {}
      statement.reject(STALE_PLAN)
    },
  })
}

/**
 * Opening, then statement and COMMIT together, where BEGIN, settings, statement and COMMIT one by one would be four round
 * trips. The statement is sent only when the opening has succeeded: without its scope it would reach everything. COMMIT behind
 * what failed rolls back.
 *
 * What follows an answer is sent within the driver's own turn that has read it, so the connection cannot have died in
 * between. Rejects with the driver's own error.
 */
export function runScoped({ sql, flights }: Pool, { opening, strings, args }: ScopedStatement): Promise<unknown> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>()
  const begin = sql.unsafe(opening, [], { onexecute: hold } as never) as unknown as OwnQuery
  const statement = sql(strings, ...args) as unknown as OwnQuery
  const commit = sql.unsafe('commit') as unknown as OwnQuery
  reportStalePlan(statement)
  const waiting = [statement, commit]
  let inFlight = 0
  let failure: unknown

  function send(query: OwnQuery, how: (query: DriverQuery) => void) {
    inFlight += 1
    query.executed = true
    query.handler = how
    query.catch(() => {})
    flights.takeOff(query, (error) => {
      inFlight -= 1
      failure ??= error
      // The driver goes on in this turn when there is more to send.
      queueMicrotask(settle)
    })
  }

  function hold(connection: DriverConnection) {
    connection.reserved = () => {
      if (failure !== undefined) waiting.splice(0, waiting.length, commit)
      for (let isOpen: unknown = true; isOpen && waiting.length > 0; ) {
        send(waiting.shift()!, (query) => {
          isOpen = connection.execute(query)
        })
      }
    }
  }

  function settle() {
    if (inFlight > 0) return
    if (failure === undefined && waiting.length === 0) resolve(statement)
    else reject(failure ?? new Error('the opening has left no transaction'))
  }

  send(begin, begin.handler)
  return promise
}
