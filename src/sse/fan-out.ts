import type { LoggedEvent } from './frames.ts'
import type { Stream } from './stream.ts'

/** Streams that are written to in one turn of the event loop: some milliseconds of system calls. */
export const SLICE = 500
/** Characters that may come while a broadcast is under way. */
const WAITING_CHARS_MAX = 4_194_304

export interface FanOut {
  /** Gives consecutive events to every live stream: at once, or a slice in each turn where there are many. */
  push(events: LoggedEvent[]): void
}

/** What a fan-out asks of whoever owns the streams. */
export interface FanOutTarget {
  readonly streams: ReadonlySet<Stream>
  write(stream: Stream, events: LoggedEvent[]): void
  /** The stream must get what it lacks from the log. */
  fallBehind(stream: Stream): void
  /** Everything pushed has been given to all. */
  onIdle(): void
}

/**
 * The broadcast to the streams of one conversation. Ten thousand writes in one go would hold up everything else for a tenth of
 * a second; so others have a turn after each slice, and what comes meanwhile goes to all of them together afterwards.
 * A stream that joins in between has read up from the log as far as the channel stands, past all that is pushed by then.
 */
export function createFanOut(target: FanOutTarget, { slice }: { slice: number }): FanOut {
  let waiting: LoggedEvent[] = []
  let waitingChars = 0
  let hasOverflowed = false
  let busy = false

  async function run() {
    busy = true
    while (waiting.length > 0 || hasOverflowed) {
      const give = hasOverflowed ? target.fallBehind : writer(waiting)
      waiting = []
      waitingChars = 0
      hasOverflowed = false
      let given = 0
      for (const stream of target.streams) {
        if (!stream.live) continue
        if (given > 0 && given % slice === 0) await new Promise(setImmediate)
        // While others had their turn it may have ended, or have turned to the log.
        if (stream.live && !stream.closed) give(stream)
        given++
      }
    }
    busy = false
    target.onIdle()
  }

  const writer = (events: LoggedEvent[]) => (stream: Stream) => target.write(stream, events)

  return {
    push(events) {
      waitingChars += events.reduce((sum, event) => sum + event.data.length, 0)
      if (waitingChars > WAITING_CHARS_MAX && busy) {
        hasOverflowed = true
        waiting = []
      }
      if (!hasOverflowed) waiting.push(...events)
      if (!busy) void run()
    },
  }
}
