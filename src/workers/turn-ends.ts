import { NO_USAGE, STEP_FAILURES } from './protocol.ts'
import type { TurnEnd } from './turn.ts'

/** How turns end that this replica has stopped and nobody is to go on with. */
export const FAILURES = {
  timeout: failure('turn_timeout', 'The turn took too long and was stopped'),
  'too long': failure('turn_too_long', 'The turn wrote more than one turn may and was stopped'),
  'budget exhausted': failure(
    'budget_exhausted',
    "The turn was stopped: the organization's budget for this month is used up",
  ),
}

/** A turn of which nothing but its end was missing. */
export const COMPLETED: TurnEnd = { status: 'completed', usage: NO_USAGE }

export function failedStep(failed: keyof typeof STEP_FAILURES): TurnEnd {
  return { status: 'failed', usage: NO_USAGE, error: STEP_FAILURES[failed] }
}

export function failure(code: string, message: string): TurnEnd {
  return { status: 'failed', usage: NO_USAGE, error: { code, message, retryable: false } }
}
