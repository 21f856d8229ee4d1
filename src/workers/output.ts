import type { Readable } from 'node:stream'
import type { Logger } from '../lib/logger.ts'

const LINE_BYTES_MAX = 8 * 1024
/** Lines of one stream that reach the log each second; a worker that prints in a loop must not fill the disk. */
const LINES_PER_SECOND_MAX = 20

/**
 * Writes what a worker prints into the log, a line an entry. Never holds more than one line: what is longer than 8 KiB
 * is cut, what comes faster than 20 lines a second is counted and dropped, and the stream is always read to its end.
 */
export function logOutput(
  stream: Readable,
  args: {
    log: Logger
    level: 'debug' | 'warn'
    /** Ids of the turn that runs when a line comes. */
    about?(): Record<string, string> | undefined
    onLine?(line: string): void
  },
) {
  let held: Buffer = Buffer.alloc(0)
  let second = 0
  let lines = 0
  let dropped = 0

  function write(line: string) {
    args.onLine?.(line)
    const now = Math.floor(performance.now() / 1000)
    if (now !== second) {
      if (dropped > 0) args.log[args.level]({ dropped }, 'worker output dropped')
      second = now
      lines = 0
      dropped = 0
    }
    lines++
    if (lines > LINES_PER_SECOND_MAX) dropped++
    else args.log[args.level]({ ...args.about?.(), output: line }, 'worker output')
  }

  function endLine() {
    if (held.length > 0) write(held.toString('utf8'))
    held = Buffer.alloc(0)
  }

  stream.on('data', (chunk: Buffer) => {
    let from = 0
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
      held = append(held, chunk.subarray(from, end))
      endLine()
      from = end + 1
    }
    held = append(held, chunk.subarray(from))
  })
  stream.on('end', endLine)
  stream.on('error', () => {})
}

/** Copies, so that the rest of a large chunk can be freed; what passes the bound is left out. */
function append(held: Buffer, piece: Buffer): Buffer {
  const room = LINE_BYTES_MAX - held.length
  return piece.length === 0 || room <= 0 ? held : Buffer.concat([held, piece.subarray(0, room)])
}
