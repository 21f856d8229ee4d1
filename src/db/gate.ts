import { jitter } from '../lib/backoff.ts'
import { errorLine } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import { isConnectError, unavailable } from './errors.ts'
import { createWaitingLine, type Ticket } from './waiting-line.ts'

export type { Ticket } from './waiting-line.ts'

/**
 * Queries and transactions that may wait for a connection. The driver's own queue has no bound, so it is kept empty:
 * who finds no free connection waits here. More would only be answered after their callers have gone.
 */
const WAITING_MAX = 1_000
/** Longest wait for a connection. A pool that is blocked answers 503 rather than hanging. */
const WAIT_MS_MAX = 10_000
const PROBE_MS = 250
/** A probe that is answered later than this tells that the server is not well, and the next may find another way. */
const PROBE_ANSWER_MS = 2_000

/**
 * Who may use the pool, and when.
 *
 *   up ──a connect fails──► down: everybody is refused at once
 *    ▲                       │ every 250 ms a probe
 *    └───── it answers ──────┘
 *
 * So while the server is away the caller has its 503 within a millisecond, and one probe knocks instead of all of them.
 */
export interface Gate {
  enter(ticket: Ticket): void
  /** Gives the place back. The error, if there was one, tells whether the server can be reached. */
  leave(error?: unknown): void
  /** Withdraws a ticket that has not been called yet; false when it was. */
  withdraw(ticket: Ticket): boolean
  isDown(): boolean
  /** How full it is at this moment. */
  load(): { places: number; busy: number; waiting: number }
  /** Refuses all from now on. */
  close(): void
}

export interface GateOptions {
  /** Connections of the pool. */
  places: number
  waitingMax?: number
  waitMsMax?: number
  /** Asks the server for a sign of life. */
  probe(): Promise<void>
}

export function createGate({ log }: { log: Logger }, options: GateOptions): Gate {
  const { places, waitingMax = WAITING_MAX, waitMsMax = WAIT_MS_MAX } = options
  const late = () => unavailable(new Error(`no database connection became free within ${waitMsMax} ms`))
  const line = createWaitingLine({ max: waitingMax, msMax: waitMsMax, onLate: (ticket) => ticket.refuse(late()) })
  let inside = 0
  let state: 'up' | 'down' | 'closed' = 'up'

  function goDown(error: unknown) {
    state = 'down'
    log.warn({ error: errorLine(error) }, 'database unreachable')
    for (const ticket of line.clear()) ticket.refuse(unavailable(error))
    void untilAnswered(options.probe, () => state === 'down').then(() => {
      if (state !== 'down') return
      state = 'up'
      log.info('database reachable again')
    })
  }

  function callNext() {
    while (inside < places) {
      const ticket = line.next()
      if (ticket === undefined) return
      inside += 1
      ticket.go()
    }
  }

  return {
    enter(ticket) {
      if (state !== 'up') return ticket.refuse(unavailable())
      if (inside < places && line.size() === 0) {
        inside += 1
        ticket.go()
      } else if (!line.join(ticket)) ticket.refuse(unavailable(new Error('too many wait for a database connection')))
    },

    leave(error) {
      inside -= 1
      if (state === 'up' && error !== undefined && isConnectError(error)) goDown(error)
      // Not at once: the driver frees the connection only after it has told the outcome of the query.
      if (line.size() > 0) queueMicrotask(callNext)
    },

    withdraw: line.withdraw,
    isDown: () => state === 'down',
    load: () => ({ places, busy: inside, waiting: line.size() }),

    close() {
      state = 'closed'
      for (const ticket of line.clear()) ticket.refuse(unavailable())
    },
  }
}

/** Resolves when a probe is answered, or when there is no more need of one. */
async function untilAnswered(probe: () => Promise<void>, needed: () => boolean): Promise<void> {
  while (needed() && !(await succeedsWithin(PROBE_ANSWER_MS, probe()))) await pause(jitter(PROBE_MS))
}

/** What the work does later than that is nobody's business. */
function succeedsWithin(ms: number, work: Promise<void>): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>()
  const timer = setTimeout(resolve, ms, false).unref()
  work.then(
    () => resolve(true),
    () => resolve(false),
  )
  return promise.finally(() => clearTimeout(timer))
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref()
  })
}
