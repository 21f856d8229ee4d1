import type postgres from 'postgres'

/** postgres.js; `bigint` columns are numbers, `timestamptz` are Dates, `json` is parsed. */
export type Sql = postgres.Sql<{ bigint: number }>
/** What the callback of `sql.begin` is given. When its connection dies, its queries reject. */
export type Tx = postgres.TransactionSql<{ bigint: number }>

/** The parts of postgres.js's `Query` that are used here. They are not in its types; `guard.test.ts` watches over them. */
export interface DriverQuery extends Promise<unknown> {
  /** What was written: the template's texts, and the values between them. */
  readonly strings: TemplateStringsArray
  readonly args: never[]
  /** Null until it is sent. */
  state: unknown
  /** Hands the query to the driver; called once somebody awaits it. */
  handler(query: DriverQuery): void
  resolve(value: unknown): void
  reject(error: unknown): void
  cursor(): never
  describe(): never
  cancel(): void
}

/**
 * Sends a query with its values in one piece. The driver would first ask the server for the types of the values and wait for
 * the answer: a process that freezes in between leaves the server in the middle of a statement, where none of its timeouts
 * counts, and so keeps the locks of its transaction and a connection of the pooler until somebody ends it. Without the
 * types values travel as `types.ts` says of unknown ones. It saves a round trip as well.
 */
const IN_ONE_PIECE = { describeFirst: { get: () => false, set: () => {} } }

type Method = (...args: unknown[]) => unknown

/**
 * A tag function that looks like the driver's and shows each query that it makes to `admit`, before anything is sent.
 * Fragments and helpers such as `sql(['a', 'b'])` are the driver's own. `current` is asked at each call.
 */
export function guardTag(current: () => Sql | Tx, admit: (query: DriverQuery) => void) {
  const admitted = (made: unknown) => {
    const query = made as DriverQuery
    query.cursor = refuseCursor
    query.describe = refuse
    Object.defineProperties(query, IN_ONE_PIECE)
    admit(query)
    return query
  }
  const call = (first: unknown, ...rest: unknown[]) => {
    const made = (current() as unknown as Method)(first, ...rest)
    return Array.isArray((first as { raw?: unknown } | null)?.raw) ? admitted(made) : made
  }
  const pass =
    (name: 'json' | 'array' | 'typed') =>
    (...args: unknown[]) =>
      (current()[name] as unknown as Method)(...args)
  return Object.assign(call, {
    unsafe: (...args: unknown[]) => admitted((current().unsafe as unknown as Method)(...args)),
    json: pass('json'),
    array: pass('array'),
    typed: pass('typed'),
    types: pass('typed'),
    file: refuse,
    notify: refuse,
  })
}

/** Stands in for what would go round the gate. */
export function refuse(): never {
  throw new Error('not available on the guarded client: see src/db/guard.ts')
}

/** What a pool can do that would go round the gate. */
export const REFUSED = {
  reserve: refuse,
  listen: refuse,
  subscribe: refuse,
  largeObject: refuse,
  end: refuse,
  close: refuse,
}

function refuseCursor(): never {
  throw new Error('cursors hold a connection while the caller thinks: read in pages by key')
}
