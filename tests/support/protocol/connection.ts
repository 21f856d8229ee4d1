import type { Database, Sql } from '../../../src/db/client.ts'
import type { Mutation } from './mutant.ts'
import { withPause } from './pauses.ts'

/** What becomes of a transaction where it would commit. `mute`: it commits, and the answer is lost on its way. */
export type Fate = 'commits' | 'dies' | 'mute'

/**
 * One connection of a replica to the real server, whose statements are let through one by one.
 *
 *   parked ──goOn──► busy ──the server has answered──► parked (before the next statement, or the commit)
 *                     │ ▲
 *                     └─┘ waits for a lock, until another connection goes on
 *
 * The product's verbs run on `sql` as they do on their pool: a statement outside of a transaction is one of its own, with
 * a stop before it and one before its commit, so that its locks are held while others go on. What only reads holds nothing:
 * it has no stop before its commit, nor one between it and the statement before it.
 */
export interface Connection {
  readonly sql: Sql
  readonly pid: number
  state(): 'idle' | 'parked' | 'busy'
  /** What it stops before. */
  place(): string
  /** Transactions committed so far. */
  commits(): number
  /** Lets it go on to its next stop; `fate` counts before a commit. */
  goOn(fate?: Fate): void
  /** Resolves when it is not busy. */
  settled(): Promise<void>
  /**
   * Runs `work`, and is idle when that is over. It must not throw. While `free`, nothing stops; with `pauses` statements stop
   * within as well (`pauses.ts`).
   */
  run(work: () => Promise<void>, options: { free: boolean; pauses: boolean }): void
}

/** The transaction was rolled back, or nobody knows: its holder died, or its answer was lost. */
export class ConnectionLost extends Error {}

/** Before a commit; any other place is the beginning of a statement. */
export const COMMIT = 'commit'
/** Before a transaction, whose first statement goes with its BEGIN; or before a statement that only reads. */
const BEGIN = 'begin'

/** Of a statement as the product has it, which a mutant may have changed. */
function reads(text: string): boolean {
  return !/\b(insert|update|delete|for share)\b/.test(text)
}

/** `database` has one connection, so that its process at the server is known. */
export async function createConnection({ sql: pool }: Database, mutation: Mutation): Promise<Connection> {
  const pid = await prepare(pool)
  let state: 'idle' | 'parked' | 'busy' = 'idle'
  let free = false
  let pauses = false
  let place = ''
  let commits = 0
  let open: (fate: Fate) => void = () => {}
  let stopped = Promise.withResolvers<void>()

  function become(next: 'idle' | 'parked' | 'busy') {
    state = next
    if (state === 'busy') stopped = Promise.withResolvers()
    else stopped.resolve()
  }

  async function stop(before: string): Promise<Fate> {
    if (free) return 'commits'
    const gate = Promise.withResolvers<Fate>()
    open = gate.resolve
    place = before
    become('parked')
    return gate.promise
  }

  async function transact(work: Work): Promise<unknown> {
    await stop(BEGIN)
    let fate: Fate = 'commits'
    const value = await pool.begin(async (tx) => {
      const made = await work(tx as unknown as Sql)
      fate = await stop(COMMIT)
      if (fate === 'dies') throw new ConnectionLost('died before its commit')
      return made
    })
    commits++
    if ((fate as Fate) === 'mute') throw new ConnectionLost('committed, but nobody was told')
    return value
  }

  /** The client of an open transaction. Its first statement goes with the BEGIN. */
  function within(tx: Sql): Sql {
    let first = true
    const send = inLine(async (query, { strings }) => {
      const text = strings.join('?')
      if (!first && !reads(text)) await stop(text)
      first = false
      return query()
    })
    return client(tx, { send, begin: refuseToNest })
  }

  /** The client outside of transactions: each statement is one. */
  function alone(): Sql {
    const send: Send = async (query, { strings, values }) => {
      if (free) return query()
      if (!reads(strings.join('?'))) {
        return transact((tx) => new Promise((...both) => void tagOf(within(tx))(strings, ...values).then(...both)))
      }
      await stop(BEGIN)
      return query()
    }
    return client(pool, { send, begin: (work) => transact((tx) => work(within(tx))) })
  }

  function templateFor(strings: TemplateStringsArray): TemplateStringsArray {
    const template = mutation.templateFor(strings)
    return pauses ? withPause(template) : template
  }

  /** A tag function like the driver's. A query that is part of another one is never awaited, and so never sent. */
  function client(driver: Sql, { send, begin }: { send: Send; begin(work: Work): Promise<unknown> }): Sql {
    const tag = (strings: TemplateStringsArray, ...values: unknown[]) => {
      const isTemplate = Array.isArray(strings?.raw)
      const query = tagOf(driver)(isTemplate ? templateFor(strings) : strings, ...values)
      if (!isTemplate) return query
      const later: Then = (done, failed) => {
        // Once is enough: the driver itself looks at its queries with `catch`, which calls `then`.
        Reflect.deleteProperty(query, 'then')
        return send(() => new Promise((...both) => void query.then(...both)), { strings, values }).then(done, failed)
      }
      // biome-ignore lint/suspicious/noThenProperty: the driver sends a query when it is awaited, and that has to wait
      return Object.assign(query, { then: later })
    }
    return Object.assign(tag, { json: driver.json, array: driver.array, begin }) as unknown as Sql
  }

  return {
    sql: alone(),
    pid,
    state: () => state,
    place: () => place,
    commits: () => commits,
    settled: () => stopped.promise,
    goOn(fate = 'commits') {
      become('busy')
      open(fate)
    },
    run(work, options) {
      free = options.free
      pauses = options.pauses
      become('busy')
      void work().then(() => become('idle'))
    },
  }
}

/** No time limit of the server may end what waits here on purpose; and who waits for whom is found out before it does. */
async function prepare(sql: Sql): Promise<number> {
  const [row] = await sql<{ pid: number }[]>`
    select pg_backend_pid() as pid, set_config('deadlock_timeout', '1h', false), set_config('statement_timeout', '0', false),
      set_config('idle_in_transaction_session_timeout', '0', false)`
  return row!.pid
}

type Work = (tx: Sql) => Promise<unknown>
type Send = (
  query: () => Promise<unknown>,
  written: { strings: TemplateStringsArray; values: unknown[] },
) => Promise<unknown>
type Then = (done?: (value: unknown) => unknown, failed?: (error: unknown) => unknown) => Promise<unknown>
type Tag = (...args: unknown[]) => { then: Then }

/**
 * Statements of one transaction that are sent together are worked off one after the other, as the server does; once one has
 * failed, the others of it fail too.
 */
function inLine(send: Send): Send {
  let line: Promise<unknown> = Promise.resolve()
  return (query, written) => {
    const sent = line.then(() => send(query, written))
    line = sent
    // Whoever sent it is told; this only keeps the line.
    line.catch(() => {})
    return sent
  }
}

function tagOf(sql: Sql): Tag {
  return sql as unknown as Tag
}

function refuseToNest(): never {
  throw new Error('a transaction within a transaction')
}
