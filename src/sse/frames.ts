/**
 * Server-sent events as bytes. A frame carries the header of its HTTP chunk, so that one buffer, made once, can be
 * written to any number of sockets. One client parses strictly: `id: <n>`, `event: <name>`, `data: <one-line JSON>`,
 * LF ends and one space after the colon.
 */

/** One event as the log keeps it: its number, its name, its data as one-line JSON. */
export interface LoggedEvent {
  seq: number
  name: string
  data: string
}

/** The last chunk of an HTTP body. */
export const FINAL_CHUNK = Buffer.from('0\r\n\r\n')

/** Wraps the text of one or more frames into one HTTP chunk; no text into no bytes, since an empty chunk is the last. */
export function encodeChunk(text: string): Buffer {
  if (text === '') return Buffer.alloc(0)
  return Buffer.from(`${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`)
}

/** The text of one HTTP chunk, for a client that does not know chunks. */
export function unwrapChunk(chunk: Buffer): Buffer {
  return chunk.length === 0 ? chunk : chunk.subarray(chunk.indexOf('\r\n') + 2, -2)
}

/** A numbered event. */
export function formatEvent({ seq, name, data }: LoggedEvent): string {
  return `id: ${seq}\nevent: ${name}\ndata: ${data}\n\n`
}

/** An event outside the numbering: `connected`, `ping`, `reset`, `closed`. */
export function formatNotice(name: string, data: Record<string, unknown>): string {
  return `event: ${name}\ndata: ${toOneLine(data)}\n\n`
}

/** Tells the client how long to wait before it comes back. */
export function formatRetry(ms: number): string {
  return `retry: ${ms}\n\n`
}

/** An event as the queue and the log carry it: name, space, data on one line. */
export function encodeEventLine(name: string, data: Record<string, unknown>): string {
  return `${name} ${toOneLine(data)}`
}

/**
 * Line ends of Unicode that JSON leaves as they are. No event stream ends a line there, but Python's `splitlines` and its
 * like do, and clients are built on them.
 */
const UNICODE_LINE_ENDS = /[\x85\u2028\u2029]/g

function toOneLine(data: Record<string, unknown>): string {
  return JSON.stringify(data).replace(UNICODE_LINE_ENDS, (end) => {
    return `\\u${end.charCodeAt(0).toString(16).padStart(4, '0')}`
  })
}

/** The numbered events of log lines whose first has the number `firstSeq`. */
export function parseEventLines(lines: string, firstSeq: number): LoggedEvent[] {
  return lines.split('\n').map((line, index) => {
    const space = line.indexOf(' ')
    return { seq: firstSeq + index, name: line.slice(0, space), data: line.slice(space + 1) }
  })
}
