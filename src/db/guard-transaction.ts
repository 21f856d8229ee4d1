import { type DriverQuery, guardTag, refuse, type Tx } from './driver-query.ts'
import { isSocketError, translateError } from './errors.ts'
import type { Flights } from './flights.ts'
import type { Pool } from './replaceable-pool.ts'

export type Work = (tx: Tx) => unknown

/** A transaction's view of its connection: once dead, for ever dead. */
interface Life {
  /** The error it died of. */
  dead: unknown
  kill(error: unknown): void
}

/**
 * `pool.begin`, but a connection that dies in the middle ends the transaction and not the process: from then on nothing
 * of it reaches the driver, neither a query nor the automatic COMMIT or ROLLBACK, which the driver (postgres 3.4.9)
 * would write to a socket that is null, or run on the connection that took the place, outside of any transaction.
 *
 * Rejects with the driver's error as soon as the connection is dead, even while the work still runs.
 */
export function beginGuarded(
  { sql, flights }: Pool,
  { mode, settings, work }: { mode: string; settings: Record<string, string>; work: Work },
): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const life: Life = {
      dead: undefined,
      kill(error) {
        life.dead ??= error
        reject(error)
      },
    }
    const failed = (error: unknown) => (isSocketError(error) ? life.kill(error) : reject(error))
    flights
      .around(
        (between) => sql.begin(beginning(mode, settings), between),
        (tx) => runWork({ flights, life }, tx, work),
      )
      .then(resolve, failed)
  })
}

/**
 * What stands behind BEGIN, the settings too: in a statement of their own they would not bound a process that freezes before
 * it. Of a string the driver keeps letters alone, by its `replace`; this one is ours and needs none of that.
 */
function beginning(mode: string, settings: Record<string, string>): string {
  const names = Object.entries(settings).map(([name, value]) => `; set local ${name} = '${value}'`)
  const text = mode.replace(/[^a-z ]/gi, '') + names.join('')
  return { replace: () => text } as unknown as string
}

/** Never returns on a dead connection, because on return the driver would send something to it. */
async function runWork(deps: { flights: Flights; life: Life }, tx: Tx, work: Work): Promise<unknown> {
  const { life } = deps
  try {
    const made = work(guardTransaction(deps, tx))
    const value = Array.isArray(made) ? await Promise.all(made) : await made
    return life.dead === undefined ? value : await never()
  } catch (error) {
    if (life.dead !== undefined) return await never()
    throw error
  }
}

function guardTransaction(deps: { flights: Flights; life: Life }, tx: Tx): Tx {
  const { flights, life } = deps

  function admit(query: DriverQuery) {
    const { handler } = query
    query.handler = () => {
      if (life.dead !== undefined) return query.reject(translateError(life.dead))
      query.handler = handler
      const landed = (error: unknown) => {
        if (isSocketError(error)) life.kill(error)
      }
      flights.takeOff(query, landed, { inTransaction: true })
    }
  }

  async function savepoint(...args: [Work] | [string, Work]) {
    if (life.dead !== undefined) throw translateError(life.dead)
    const [name, work] = args.length === 1 ? [undefined, args[0]] : args
    const start = (inner: Work) => (name === undefined ? tx.savepoint(inner) : tx.savepoint(name, inner))
    try {
      return await flights.around(start, (nested) => runWork(deps, nested, work))
    } catch (error) {
      if (isSocketError(error)) life.kill(error)
      throw translateError(error)
    }
  }

  return Object.assign(
    guardTag(() => tx, admit),
    { savepoint, prepare: refuse },
  ) as unknown as Tx
}

function never(): Promise<never> {
  return new Promise(() => {})
}
