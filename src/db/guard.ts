import type postgres from 'postgres'
import { isSocketError, translateError } from './errors.ts'
import type { Gate } from './gate.ts'

/** postgres.js; `bigint` columns are numbers, `timestamptz` are Dates, `json` is parsed. */
export type Sql = postgres.Sql<{ bigint: number }>
/** What the callback of `sql.begin` is given. When its connection dies, its queries reject. */
export type Tx = postgres.TransactionSql<{ bigint: number }>

/** The parts of postgres.js's `Query` that are used here. They are not in its types; `guard.test.ts` watches over them. */
interface DriverQuery extends Promise<unknown> {
  /** Null until it is sent. */
  state: unknown
  handler(query: DriverQuery): void
  resolve(value: unknown): void
  reject(error: unknown): void
  cursor(): never
  cancel(): void
}

/** A transaction's own view of its connection: once dead, for ever dead. */
interface Life {
  dead: unknown
  kill(error: unknown): void
}

type Work = (tx: Tx) => unknown

export interface Guarded {
  sql: Sql
  /** Age in milliseconds of the query that has been unanswered for longest; 0 when there is none. */
  oldestFlightMs(): number
  /** Fails the queries that the driver has taken but not sent yet. */
  failUnsent(error: Error): void
}

/**
 * postgres.js, made safe for a server that runs for months:
 *
 * - Each query and each transaction passes the gate, so what waits is bounded and the driver never pipelines.
 * - **A connection that dies inside `begin` does not end the process.** Without this the driver writes the next query of
 *   that transaction, or its automatic ROLLBACK, to a socket that is null (postgres 3.4.9, `connection.js` `nextWrite`),
 *   or runs it outside of any transaction on the connection that took the place.
 * - Errors of the connection arrive as `AppError('database_unavailable')`.
 *
 * Cursors, `reserve`, `listen` and `end` are refused: they would go round the gate. `current` may give another pool later.
 */
export function guardSql(
  { current, gate }: { current(): Sql; gate: Gate },
  { onError = () => {} }: { onError?(error: unknown): void } = {},
): Guarded {
  const flights = new Map<DriverQuery, number>()

  /** Takes off when the driver is to run it, and lands once, however often the driver says so. */
  function fly(query: DriverQuery, run: () => void, landed: (error?: unknown) => void) {
    const { resolve, reject } = query
    let over = false
    const land = (error?: unknown) => {
      if (over) return
      over = true
      flights.delete(query)
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
    flights.set(query, performance.now())
    run()
  }

  function admitToPool(query: DriverQuery) {
    const { handler, reject } = query
    query.cursor = refuseCursor
    query.handler = () => {
      const ticket = {
        go: () => fly(query, () => handler(query), gate.leave),
        refuse: (error: Error) => reject(error),
      }
      // `query.cancel()` while it waits.
      query.reject = (error) => {
        gate.withdraw(ticket)
        reject(error)
      }
      gate.enter(ticket)
    }
    return query
  }

  function admitToTransaction(query: DriverQuery, life: Life) {
    const { handler } = query
    query.cursor = refuseCursor
    query.handler = () => {
      if (life.dead !== undefined) return query.reject(translateError(life.dead))
      const landed = (error?: unknown) => {
        if (isSocketError(error)) life.kill(error)
      }
      fly(query, () => handler(query), landed)
    }
    return query
  }

  function begin(...args: [Work] | [string, Work]) {
    const [mode, work] = args.length === 1 ? ['', args[0]] : args
    return new Promise((resolve, reject) => {
      gate.enter({ go: () => transact({ mode, work, resolve, reject }), refuse: reject })
    })
  }

  function transact(args: { mode: string; work: Work; resolve(value: unknown): void; reject(error: unknown): void }) {
    let over = false
    const end = (error?: unknown) => {
      if (over) return
      over = true
      gate.leave(error)
    }
    const fail = (error: unknown) => {
      if (!over) onError(error)
      end(error)
    }
    const life: Life = {
      dead: undefined,
      kill(error) {
        life.dead ??= error
        fail(error)
        args.reject(translateError(error))
      },
    }
    const run = current().begin(args.mode, (tx) => runWork(tx, args.work, life))
    run.then(
      (value) => {
        end()
        args.resolve(value)
      },
      (error: unknown) => {
        if (isSocketError(error)) return life.kill(error)
        fail(error)
        args.reject(translateError(error))
      },
    )
  }

  /** Never returns on a dead connection, because on return the driver would send COMMIT or ROLLBACK to it. */
  async function runWork(tx: Tx, work: Work, life: Life) {
    try {
      const made = work(guardTransaction(tx, life))
      const value = Array.isArray(made) ? await Promise.all(made) : await made
      return life.dead === undefined ? value : await never()
    } catch (error) {
      if (life.dead !== undefined) return await never()
      throw error
    }
  }

  function guardTransaction(tx: Tx, life: Life): Tx {
    const savepoint = async (...args: [Work] | [string, Work]) => {
      if (life.dead !== undefined) throw translateError(life.dead)
      const [name, work] = args.length === 1 ? [undefined, args[0]] : args
      const inner = (nested: Tx) => runWork(nested, work, life)
      try {
        return await (name === undefined ? tx.savepoint(inner) : tx.savepoint(name, inner))
      } catch (error) {
        if (isSocketError(error)) life.kill(error)
        throw translateError(error)
      }
    }
    const tag = guardTag(
      () => tx,
      (query) => admitToTransaction(query, life),
    )
    return Object.assign(tag, { savepoint, prepare: refuse }) as unknown as Tx
  }

  const tag = guardTag(current, admitToPool)
  const refused = {
    reserve: refuse,
    listen: refuse,
    subscribe: refuse,
    largeObject: refuse,
    end: refuse,
    close: refuse,
  }
  return {
    sql: Object.assign(tag, { begin, ...refused }) as unknown as Sql,
    oldestFlightMs() {
      for (const since of flights.values()) return performance.now() - since
      return 0
    },
    failUnsent(error) {
      for (const query of [...flights.keys()].filter(({ state }) => state === null)) {
        query.reject(error)
        // Takes it out of the driver's queue as well.
        query.cancel()
      }
    },
  }
}

/** A tag function that looks like the driver's and hands each query that it makes to `admit`. */
function guardTag(current: () => Sql | Tx, admit: (query: DriverQuery) => DriverQuery) {
  const call = (first: unknown, ...rest: unknown[]) => {
    const made = (current() as unknown as (...args: unknown[]) => unknown)(first, ...rest)
    return Array.isArray((first as { raw?: unknown } | null)?.raw) ? admit(made as DriverQuery) : made
  }
  type Method = (...args: unknown[]) => unknown
  const pass =
    (name: 'json' | 'array' | 'typed') =>
    (...args: unknown[]) =>
      (current()[name] as unknown as Method)(...args)
  return Object.assign(call, {
    unsafe: (...args: unknown[]) => admit((current().unsafe as unknown as Method)(...args) as DriverQuery),
    json: pass('json'),
    array: pass('array'),
    typed: pass('typed'),
    types: pass('typed'),
    file: refuse,
    notify: refuse,
  })
}

function refuse(): never {
  throw new Error('not available on the guarded client: see src/db/guard.ts')
}

function refuseCursor(): never {
  throw new Error('cursors hold a connection while the caller thinks: read in pages by key')
}

function never(): Promise<never> {
  return new Promise(() => {})
}
