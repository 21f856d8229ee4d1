import type { Stream } from './stream.ts'

/** A connection that still stands so long after the network took the bytes did not break while they were under way. */
const STANDS_MS = 200

/** Which ends of turns have reached the readers of this replica's streams, as far as a server can know. */
export interface Receipts {
  /** The network has taken, from this stream, the end with this number. `confirm` is called at most once, maybe later. */
  taken(stream: Stream, seq: number, confirm: (seq: number) => void): void
  /** The stream is over. A reader that goes in order has what was taken; one that is torn off may not. */
  closed(stream: Stream, isBroken: boolean): void
}

/**
 * A turn counts as seen, and is not shown to a fresh stream, only when its end was handed to a connection that then stood
 * for a moment or was closed in order. Anything else is shown again: twice is a nuisance, never is a loss.
 */
export function createReceipts(): Receipts {
  const waiting = new Map<Stream, { seq: number; confirm(seq: number): void; timer: NodeJS.Timeout }>()

  function settle(stream: Stream, isSeen: boolean) {
    const one = waiting.get(stream)
    if (!one) return
    waiting.delete(stream)
    clearTimeout(one.timer)
    if (isSeen) one.confirm(one.seq)
  }

  return {
    taken(stream, seq, confirm) {
      const earlier = waiting.get(stream)
      if (stream.closed) confirm(seq)
      // The first of several ends is not held up by the others.
      else if (earlier) earlier.seq = seq
      else waiting.set(stream, { seq, confirm, timer: setTimeout(settle, STANDS_MS, stream, true).unref() })
    },
    closed: (stream, isBroken) => settle(stream, !isBroken),
  }
}
