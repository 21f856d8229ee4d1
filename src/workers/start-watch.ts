import type { Logger } from '../lib/logger.ts'

/** One that failed may have met a full machine; two in a row did not. Before any has started, one says enough. */
const FAILURES_MAX = 2

/** Whether this replica can start workers at all. */
export interface StartWatch {
  /** What became of a start; undefined when it was given up on purpose, which says nothing. */
  note(outcome: 'ready' | { fault: string } | undefined): void
  /** Why workers cannot be started; null when they can, or nobody knows yet. */
  fault(): string | null
  /** A worker was ready once. */
  isProven(): boolean
}

/** Looks at one start after the other; a success forgets all that was before. */
export function createStartWatch({ log }: { log: Logger }): StartWatch {
  let failures = 0
  let isProven = false
  let fault: string | null = null

  return {
    note(outcome) {
      if (outcome === undefined) return
      if (outcome === 'ready') {
        if (fault !== null) log.info('workers can be started again')
        failures = 0
        isProven = true
        fault = null
        return
      }
      failures++
      if (isProven && failures < FAILURES_MAX) return
      if (fault === null) log.error({ reason: outcome.fault }, 'workers cannot be started')
      fault = outcome.fault
    },
    fault: () => fault,
    isProven: () => isProven,
  }
}
