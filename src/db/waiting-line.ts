/** One thing that wants a connection. */
export interface Ticket {
  /** A connection is free: start. Called at most once, and the place must be given back. */
  go(): void
  /** There is none, and it is no use to wait. Called instead of `go`. */
  refuse(error: Error): void
}

/** How often those who waited too long are looked for; the bound is kept to this precision. */
const SWEEP_MS = 500

export interface WaitingLine {
  /** False when as many wait as may. */
  join(ticket: Ticket): boolean
  /** Takes a ticket out; false when it is not waiting. */
  withdraw(ticket: Ticket): boolean
  /** The one who has waited longest, taken out; undefined when nobody waits. */
  next(): Ticket | undefined
  /** Everybody, taken out. */
  clear(): Ticket[]
  size(): number
}

/** First come, first served, up to `max` at once. `onLate` gets whoever has waited for `msMax`. */
export function createWaitingLine(options: { max: number; msMax: number; onLate(ticket: Ticket): void }): WaitingLine {
  /** Insertion order is the order of arrival; the value is when to give up, by `performance.now()`. */
  const deadlines = new Map<Ticket, number>()
  let sweeper: NodeJS.Timeout | undefined

  function sweep() {
    const now = performance.now()
    for (const [ticket, deadline] of deadlines) {
      if (deadline > now) break
      deadlines.delete(ticket)
      options.onLate(ticket)
    }
    if (deadlines.size > 0) return
    clearInterval(sweeper)
    sweeper = undefined
  }

  return {
    join(ticket) {
      if (deadlines.size >= options.max) return false
      deadlines.set(ticket, performance.now() + options.msMax)
      sweeper ??= setInterval(sweep, SWEEP_MS).unref()
      return true
    },
    withdraw: (ticket) => deadlines.delete(ticket),
    next() {
      for (const ticket of deadlines.keys()) {
        deadlines.delete(ticket)
        return ticket
      }
      return undefined
    },
    clear() {
      const tickets = [...deadlines.keys()]
      deadlines.clear()
      return tickets
    },
    size: () => deadlines.size,
  }
}
