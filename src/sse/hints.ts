/**
 * How replicas tell each other that a log has grown (I8). A hint names the conversation and the range, and carries the
 * events when they fit; a receiver uses them only when they are exactly its next ones. One JSON array a payload:
 * `[[organization, conversation, first, last, events | null], …]`.
 */
import type { LogRow } from './event-log.ts'

/** NOTIFY refuses payloads of 8,000 bytes; this leaves room for the brackets. */
const PAYLOAD_BYTES_MAX = 7_800

/** Packs rows into as few payloads as possible, in order. Rows that are too large travel without their events. */
export function encodeHints(rows: LogRow[]): string[] {
  const payloads: string[] = []
  let items: string[] = []
  let bytes = 0
  for (const row of rows) {
    const item = encodeItem(row)
    const size = Buffer.byteLength(item) + 1
    if (bytes + size > PAYLOAD_BYTES_MAX && items.length > 0) {
      payloads.push(`[${items.join(',')}]`)
      items = []
      bytes = 0
    }
    items.push(item)
    bytes += size
  }
  if (items.length > 0) payloads.push(`[${items.join(',')}]`)
  return payloads
}

function encodeItem(row: LogRow): string {
  const head = [row.organizationId, row.conversationId, row.firstSeq, row.lastSeq]
  const whole = row.events.length < PAYLOAD_BYTES_MAX ? JSON.stringify([...head, row.events]) : ''
  return whole !== '' && Buffer.byteLength(whole) < PAYLOAD_BYTES_MAX ? whole : JSON.stringify([...head, null])
}

export interface Hints {
  /** Rows that came whole. */
  rows: LogRow[]
  /** Conversations of which only the range came. */
  bare: { organizationId: string; conversationId: string }[]
}

/**
 * Reads a payload. Of one that is not ours (another release's) only what is certain is taken: at least which conversation
 * it means, at best nothing, and the poll finds the rest.
 */
export function decodeHints(payload: string): Hints {
  const hints: Hints = { rows: [], bare: [] }
  let items: unknown
  try {
    items = JSON.parse(payload)
  } catch {
    return hints
  }
  if (!Array.isArray(items)) return hints
  for (const item of items) {
    const [organizationId, conversationId, firstSeq, lastSeq, events] = Array.isArray(item) ? item : []
    if (typeof organizationId !== 'string' || typeof conversationId !== 'string') continue
    const whole = typeof events === 'string' && isRange(firstSeq, lastSeq)
    if (whole) hints.rows.push({ organizationId, conversationId, firstSeq, lastSeq, events })
    else hints.bare.push({ organizationId, conversationId })
  }
  return hints
}

function isRange(first: unknown, last: unknown): boolean {
  return (
    Number.isSafeInteger(first) && Number.isSafeInteger(last) && 1 <= Number(first) && Number(first) <= Number(last)
  )
}
