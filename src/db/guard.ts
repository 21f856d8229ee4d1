import { type DriverQuery, guardTag, REFUSED, type Sql } from './driver-query.ts'
import { translateError } from './errors.ts'
import type { Gate } from './gate.ts'
import { RUN_SCOPED, type RunScoped, runScoped } from './guard-scope.ts'
import { beginGuarded, type Work } from './guard-transaction.ts'
import type { Pool } from './replaceable-pool.ts'

export interface GuardOptions {
  /** Set by the beginning of each transaction, for its duration: for what could not be asked for at connect. */
  transactionSettings?: Record<string, string>
}

/**
 * postgres.js, made safe for a server that runs for months: each query and each transaction passes the gate, so what
 * waits is bounded and the driver pipelines nothing but statements of one transaction that are sent together; a connection
 * that dies inside `begin` does not end the process; errors of the connection arrive as `AppError('database_unavailable')`.
 *
 * Cursors, `reserve`, `listen` and `end` are refused: they would go round the gate. `current` may give another pool later.
 */
export function guardSql(
  { current, gate }: { current(): Pool; gate: Gate },
  { transactionSettings = {} }: GuardOptions = {},
): Sql {
  /**
   * Of a query that the current pool has just made. The driver lets it go nowhere else, so it fails when the pool is exchanged
   * before it goes; a transaction is made when it is its turn, and goes to the new one.
   */
  function admit(query: DriverQuery) {
    const { handler, reject } = query
    const { flights } = current()
    query.handler = () => {
      const ticket = {
        go() {
          query.handler = handler
          query.reject = reject
          flights.takeOff(query, gate.leave)
        },
        refuse: reject,
      }
      // For `query.cancel()` while it waits.
      query.reject = (error) => {
        gate.withdraw(ticket)
        reject(error)
      }
      gate.enter(ticket)
    }
  }

  /** Runs what takes a connection for longer than one query, when it is its turn. */
  function enter(run: (pool: Pool) => Promise<unknown>): Promise<unknown> {
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    const landed = (error: unknown) => {
      gate.leave(error)
      reject(translateError(error))
    }
    const go = () => {
      run(current()).then((value) => {
        gate.leave()
        resolve(value)
      }, landed)
    }
    gate.enter({ go, refuse: reject })
    return promise
  }

  function begin(...args: [Work] | [string, Work]): Promise<unknown> {
    const [mode, work] = args.length === 1 ? ['', args[0]] : args
    return enter((pool) => beginGuarded(pool, { mode, settings: transactionSettings, work }))
  }

  const scoped: RunScoped = (statement) => enter((pool) => runScoped(pool, statement))
  // What a transaction must begin with is known to `begin` alone.
  const isPlain = Object.keys(transactionSettings).length === 0

  return Object.assign(
    guardTag(() => current().sql, admit),
    { begin, ...(isPlain ? { [RUN_SCOPED]: scoped } : {}), ...REFUSED },
  ) as unknown as Sql
}
