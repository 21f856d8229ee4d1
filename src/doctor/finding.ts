/** `warn`: it runs, but not as it should. `fail`: something to fix. `skip`: could not be looked at, and why. */
export type State = 'ok' | 'warn' | 'fail' | 'skip'

/** One thing that was looked at. */
export interface Finding {
  name: string
  state: State
  /** What is there, in one line. */
  detail: string
  /** What to do about it. */
  fix?: string
}

export const ok = (name: string, detail: string): Finding => ({ name, state: 'ok', detail })
export const skip = (name: string, detail: string): Finding => ({ name, state: 'skip', detail })
export const warn = (name: string, detail: string, fix: string): Finding => ({ name, state: 'warn', detail, fix })
export const fail = (name: string, detail: string, fix: string): Finding => ({ name, state: 'fail', detail, fix })
