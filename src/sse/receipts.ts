import type { Stream } from './stream.ts'

/** A connection that still stands so long after the network took the bytes did not break while they were under way. */
const STANDS_MS = 200

interface Waiting {
  /** The end whose time runs, and the last one that was taken. */
  seq: number
  latest: number
  confirm(seq: number): void
  timer: NodeJS.Timeout
}

/** Which ends of turns have reached the readers of this replica's streams, as far as a server can know. */
export interface Receipts {
  /** The network has taken, from this stream, the end with this number. `confirm` is called at most once for it, maybe later, maybe for it and those behind it together. */
  taken(stream: Stream, seq: number, confirm: (seq: number) => void): void
  /** The stream is over. A reader that goes in order has what was taken; one that is torn off may not. */
  closed(stream: Stream, isBroken: boolean): void
}

/**
 * A turn counts as seen, and is not shown to a fresh stream, only when its end was handed to a connection that then stood
 * for a moment or was closed in order. Anything else is shown again: twice is a nuisance, never is a loss.
 */
export function createReceipts(): Receipts {
  const waiting = new Map<Stream, Waiting>()

  function settle(stream: Stream, isSeen: boolean) {
    const one = waiting.get(stream)
    if (!one) return
    waiting.delete(stream)
    clearTimeout(one.timer)
    if (isSeen) one.confirm(one.latest)
  }

  /** The first end has stood for long enough; one that was taken since has its own time to stand. */
  function stood(stream: Stream) {
    const one = waiting.get(stream)
    if (!one || one.latest === one.seq) return settle(stream, true)
    one.confirm(one.seq)
    one.seq = one.latest
    one.timer = setTimeout(stood, STANDS_MS, stream).unref()
  }

  return {
    taken(stream, seq, confirm) {
      const earlier = waiting.get(stream)
      if (stream.closed) confirm(seq)
      // The first of several ends is not held up by the others.
      else if (earlier) earlier.latest = seq
      else waiting.set(stream, { seq, latest: seq, confirm, timer: setTimeout(stood, STANDS_MS, stream).unref() })
    },
    closed: (stream, isBroken) => settle(stream, !isBroken),
  }
}
