import { type DriverQuery, guardTag, REFUSED, type Sql } from './driver-query.ts'
import { translateError } from './errors.ts'
import { createFlights, type Flights } from './flights.ts'
import type { Gate } from './gate.ts'
import { RUN_SCOPED, type RunScoped, runScoped, STALE_PLAN } from './guard-scope.ts'
import { beginGuarded, type Work } from './guard-transaction.ts'

export interface Guarded extends Pick<Flights, 'oldestMs' | 'failUnsent'> {
  sql: Sql
}

export interface GuardOptions {
  onError?(error: unknown): void
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
  { current, gate }: { current(): Sql; gate: Gate },
  { onError = () => {}, transactionSettings = {} }: GuardOptions = {},
): Guarded {
  const flights = createFlights(onError)

  function admit(query: DriverQuery) {
    const { handler, reject } = query
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

  function begin(...args: [Work] | [string, Work]): Promise<unknown> {
    const [mode, work] = args.length === 1 ? ['', args[0]] : args
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    const landed = (error: unknown) => {
      onError(error)
      gate.leave(error)
      reject(translateError(error))
    }
    const go = () => {
      beginGuarded(current(), flights, { mode, settings: transactionSettings, work }).then((value) => {
        gate.leave()
        resolve(value)
      }, landed)
    }
    gate.enter({ go, refuse: reject })
    return promise
  }

  const scoped: RunScoped = (statement) => {
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    const landed = (error: unknown) => {
      if (error !== STALE_PLAN) onError(error)
      gate.leave(error)
      reject(translateError(error))
    }
    const go = () => {
      runScoped(current(), flights, statement).then((value) => {
        gate.leave()
        resolve(value)
      }, landed)
    }
    gate.enter({ go, refuse: reject })
    return promise
  }
  // What a transaction must begin with is known to `begin` alone.
  const isPlain = Object.keys(transactionSettings).length === 0

  return {
    sql: Object.assign(guardTag(current, admit), {
      begin,
      ...(isPlain ? { [RUN_SCOPED]: scoped } : {}),
      ...REFUSED,
    }) as unknown as Sql,
    oldestMs: flights.oldestMs,
    failUnsent: flights.failUnsent,
  }
}
