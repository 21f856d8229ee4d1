import type { Database, Sql } from '../../../src/db/client.ts'

/** Changes the text of each statement; for showing what happens without a lock or a condition. */
export type Mutant = (statement: string) => string

/**
 * One connection whose statements are let through one by one. What runs on it is the product's own verb in a transaction
 * that stays open, with its locks, until the schedule says that it commits.
 */
export interface Stepper {
  readonly pid: number
  /** `parked` before a statement or the commit; `busy` while a statement runs, or waits for a lock. */
  state(): 'idle' | 'parked' | 'busy'
  /**
   * Begins `work`, which parks before its first statement; what it gives is called after the commit. `dies` rolls it back
   * where it would commit.
   */
  start(work: (sql: Sql) => Promise<() => void>, options: { dies: boolean; failed(error: unknown): void }): void
  /** Lets the next statement, or the commit, through. */
  goOn(): void
}

class ConnectionDied extends Error {}

/** `database` has one connection, so that its process at the server is known. */
export async function createStepper({ sql }: Database, mutant: Mutant): Promise<Stepper> {
  const [row] = await sql<{ pid: number }[]>`select pg_backend_pid() as pid`
  let state: 'idle' | 'parked' | 'busy' = 'idle'
  let open: (() => void) | undefined

  async function gate() {
    const gateway = Promise.withResolvers<void>()
    open = gateway.resolve
    state = 'parked'
    await gateway.promise
  }

  /** The tag of an open transaction, each of whose statements passes the gate. A fragment is never awaited, and so passes. */
  function step(tx: Sql): Sql {
    const tag = (first: TemplateStringsArray, ...rest: unknown[]) => {
      const query = (tx as unknown as Tag)(Array.isArray(first?.raw) ? mutate(first, mutant) : first, ...rest)
      const send = query.then?.bind(query)
      if (send) {
        const later: Then = (done, failed) =>
          gate()
            .then(() => new Promise(send))
            .then(done, failed)
        // biome-ignore lint/suspicious/noThenProperty: the driver sends a query when it is awaited, and that has to wait
        query.then = later
      }
      return query
    }
    return Object.assign(tag, { json: tx.json, array: tx.array, begin: (work: Work) => work(step(tx)) }) as never
  }

  return {
    pid: row!.pid,
    state: () => state,
    start(work, { dies, failed }) {
      state = 'busy'
      const running = sql.begin(async (tx) => {
        const committed = await work(step(tx as unknown as Sql))
        await gate()
        if (dies) throw new ConnectionDied()
        return committed
      }) as Promise<() => void>
      running
        .then((committed) => committed())
        .catch((error: unknown) => error instanceof ConnectionDied || failed(error))
        .finally(() => {
          state = 'idle'
        })
    },
    goOn() {
      state = 'busy'
      open!()
    },
  }
}

type Work = (tx: Sql) => Promise<unknown>
type Then = (done?: (value: unknown) => unknown, failed?: (error: unknown) => unknown) => Promise<unknown>
type Tag = (...args: unknown[]) => { then?: Then }

/** One array for each statement, or the driver would not know it again. */
const mutated = new WeakMap<Mutant, WeakMap<TemplateStringsArray, TemplateStringsArray>>()

function mutate(strings: TemplateStringsArray, mutant: Mutant): TemplateStringsArray {
  const known = mutated.get(mutant) ?? new WeakMap()
  mutated.set(mutant, known)
  const made = known.get(strings) ?? changeText(strings, mutant)
  known.set(strings, made)
  return made
}

/** The mutant sees the whole statement, with NUL for each parameter. */
function changeText(strings: TemplateStringsArray, mutant: Mutant): TemplateStringsArray {
  const parts = mutant(strings.join('\u0000')).split('\u0000')
  if (parts.length !== strings.length) throw new Error('the mutant took a parameter away')
  return Object.assign(parts, { raw: parts }) as unknown as TemplateStringsArray
}

/** Resolves when every stepper is parked, idle, or waits for a lock that another one holds. */
export async function quiesce(watcher: Sql, steppers: Stepper[]): Promise<Set<Stepper>> {
  for (;;) {
    const busy = steppers.filter((stepper) => stepper.state() === 'busy')
    if (busy.length === 0) return new Set()
    const rows = await watcher<{ pid: number }[]>`
      select pid from unnest(${busy.map((stepper) => stepper.pid)}::int[]) as pid
      where cardinality(pg_blocking_pids(pid)) > 0`
    const blocked = new Set(rows.map((row) => row.pid))
    const still = busy.filter((stepper) => stepper.state() === 'busy')
    if (still.length > 0 && still.every((stepper) => blocked.has(stepper.pid))) return new Set(still)
  }
}
