import { backoffMs, jitter } from './backoff.ts'
import { createDoorbell } from './doorbell.ts'
import { errorLine } from './errors.ts'
import type { Logger } from './logger.ts'
import type { Service } from './service.ts'

export interface Loop extends Service {
  /** Asks for a pass soon; rings during a pass cause exactly one more. */
  ring(): void
  /** Milliseconds since the last pass that did not throw; the age that readiness and alerts look at. */
  ageMs(): number
  /** Longest age that is still healthy, in milliseconds. */
  staleMs(): number
}

export interface LoopOptions {
  name: string
  /** Longest wait between two passes; a function where it depends on the state of things. */
  everyMs: number | (() => number)
  /** One pass. Returns true when there may be more to do at once. */
  pass(signal: AbortSignal): Promise<boolean | undefined> | Promise<void>
}

/** Soon enough that a short outage goes unnoticed, rare enough for a long one. */
const RETRY = { baseMs: 100, maxMs: 2_000 }

/**
 * Runs `pass` again and again, one at a time, after each ring and at the latest every `everyMs` (jittered).
 * A pass that throws is tried again after a backed-off wait, rings or not; it never ends the loop. It is logged, the same
 * fault in a row at its first, second, fourth, eighth … time.
 * `stop` lets a running pass finish.
 */
export function createLoop({ log }: { log: Logger }, options: LoopOptions): Loop {
  const bell = createDoorbell()
  const stopping = new AbortController()
  const everyMs = () => (typeof options.everyMs === 'function' ? options.everyMs() : options.everyMs)
  let running: Promise<void> | undefined
  let lastPassAt = performance.now()
  let failures = 0
  let lastFault: string | undefined

  async function run() {
    while (!stopping.signal.aborted) {
      const again = await passOnce()
      if (again === true) continue
      // After a failure rings do not shorten the wait: they would turn an absent database into a busy loop.
      if (failures > 0) await createDoorbell().wait(backoffMs(failures, RETRY), stopping.signal)
      else await bell.wait(jitter(everyMs()), stopping.signal)
    }
  }

  async function passOnce() {
    try {
      const again = await options.pass(stopping.signal)
      lastPassAt = performance.now()
      failures = 0
      return again
    } catch (error) {
      failures++
      const err = errorLine(error)
      // Ever more rarely: in an outage every loop of every replica fails for as long as it lasts.
      if (err !== lastFault || Number.isInteger(Math.log2(failures))) {
        log.warn({ loop: options.name, failures, err }, 'background pass failed')
      }
      lastFault = err
      return false
    }
  }

  return {
    name: options.name,
    staleMs: () => everyMs() * 3 + 10_000,
    ring: bell.ring,
    ageMs: () => performance.now() - lastPassAt,
    async start() {
      if (stopping.signal.aborted) return
      lastPassAt = performance.now()
      running ??= run()
    },
    async stop() {
      stopping.abort()
      await running
    },
  }
}
