import type { Logger } from 'pino'
import { jitter } from '../lib/backoff.ts'
import { errorLine } from '../lib/errors.ts'
import { isConnectError, unavailable } from './errors.ts'

/**
 * Queries and transactions that may wait for a connection. The driver's own queue has no bound, so it is kept empty:
 * who finds no free connection waits here. More would only be answered after their callers have gone.
 */
const WAITING_MAX = 1_000
/** Longest wait for a connection. A pool that is blocked answers 503 rather than hanging. */
const WAIT_MS_MAX = 10_000
const SWEEP_MS = 500
const PROBE_MS = 250
/** A probe that is answered later than this tells that the server is not well, and the next may find another way. */
const PROBE_ANSWER_MS = 2_000

/** One thing that wants a connection. */
export interface Ticket {
  /** A connection is free: start. Called at most once, and `leave` must follow. */
  go(): void
  /** There is none, and it is no use to wait. Called instead of `go`. */
  refuse(error: Error): void
}

/**
 * Who may use the pool, and when. First come, first served.
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
  const { places, probe, waitingMax = WAITING_MAX, waitMsMax = WAIT_MS_MAX } = options
  /** Insertion order is the order of arrival; the value is when to give up. */
  const waiting = new Map<Ticket, number>()
  let inside = 0
  let state: 'up' | 'down' | 'closed' = 'up'
  let sweeper: NodeJS.Timeout | undefined
  let scheduled = false

  function refuseAll(cause?: unknown) {
    const tickets = [...waiting.keys()]
    waiting.clear()
    for (const ticket of tickets) ticket.refuse(unavailable(cause))
  }

  function sweep() {
    const now = performance.now()
    for (const [ticket, deadline] of waiting) {
      if (deadline > now) break
      waiting.delete(ticket)
      ticket.refuse(unavailable(new Error(`no database connection became free within ${waitMsMax} ms`)))
    }
    if (waiting.size > 0) return
    clearInterval(sweeper)
    sweeper = undefined
  }

  function callNext() {
    scheduled = false
    for (const ticket of waiting.keys()) {
      if (inside >= places) return
      waiting.delete(ticket)
      inside += 1
      ticket.go()
    }
  }

  function goDown(error: unknown) {
    if (state !== 'up') return
    state = 'down'
    log.warn({ error: errorLine(error) }, 'database unreachable')
    refuseAll(error)
    void knock()
  }

  async function knock() {
    while (state === 'down') {
      const answered = await within(PROBE_ANSWER_MS, probe())
      if (state !== 'down') return
      if (answered) {
        state = 'up'
        log.info('database reachable again')
      } else await pause(jitter(PROBE_MS))
    }
  }

  return {
    enter(ticket) {
      if (state !== 'up') return ticket.refuse(unavailable())
      if (inside < places && waiting.size === 0) {
        inside += 1
        return ticket.go()
      }
      if (waiting.size >= waitingMax) return ticket.refuse(unavailable(new Error('too many wait for a connection')))
      waiting.set(ticket, performance.now() + waitMsMax)
      sweeper ??= setInterval(sweep, SWEEP_MS).unref()
    },

    leave(error) {
      inside -= 1
      if (error !== undefined && isConnectError(error)) goDown(error)
      if (waiting.size === 0 || scheduled) return
      scheduled = true
      // Not at once: the driver frees the connection only after it has told the outcome of the query.
      queueMicrotask(callNext)
    },

    withdraw: (ticket) => waiting.delete(ticket),
    isDown: () => state === 'down',

    close() {
      state = 'closed'
      clearInterval(sweeper)
      refuseAll()
    },
  }
}

/** True when the work succeeds in time; what it does later is nobody's business. */
function within(ms: number, work: Promise<void>): Promise<boolean> {
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
