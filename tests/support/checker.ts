import { streamedText } from './follower.ts'
import type { SseEvent } from './sse-client.ts'

/** A message that was acknowledged, and what its answer must say. */
export interface Acknowledged {
  messageId: string
  /** The exact final text; a marker that it must contain when it is not known in full. */
  answer?: string
  marker?: string
  status?: 'completed' | 'failed' | 'cancelled'
}

/** What a client saw of one conversation. */
export interface Seen {
  name: string
  acknowledged: Acknowledged[]
  events: SseEvent[]
  /** What the parser stumbled over. */
  faults?: string[]
  /** The number that comes before the first one it had to see; 0 for a client that was there from the start. */
  after?: number
}

/**
 * Everything that is wrong with what clients saw; nothing when all promises were kept: every acknowledged message ended
 * exactly once and no other did, in the order of acceptance; numbers have neither gaps nor repetitions; the text that was
 * streamed is the final text; and nothing of one conversation was shown in another, told by the markers in the texts.
 */
export function findFaults(conversations: Seen[]): string[] {
  const markers = new Map(
    conversations.flatMap((seen) => seen.acknowledged.flatMap(({ marker }) => (marker ? [[marker, seen.name]] : []))),
  )
  return conversations.flatMap((seen) => {
    const own = new Set(seen.acknowledged.map(({ messageId }) => messageId))
    const faults = [
      ...(seen.faults ?? []),
      ...numberFaults(seen),
      ...endFaults(seen),
      ...seen.acknowledged.flatMap((message) => textFaults(message, seen.events)),
      ...foreignFaults(seen, own, markers),
    ]
    return faults.map((fault) => `${seen.name}: ${fault}`)
  })
}

/** The events by which messages ended. */
export function endsOf(events: SseEvent[], messageId?: string): SseEvent[] {
  return events.filter(
    (event) => event.name === 'complete' && (messageId === undefined || event.data.messageId === messageId),
  )
}

function numberFaults({ events, after }: Seen): string[] {
  const numbers = events.flatMap((event) => event.id ?? [])
  const start = after ?? (numbers[0] ?? 1) - 1
  return numbers.flatMap((number, at) => {
    const expected = start + at + 1
    // The first one that is out of line says it all.
    return number !== expected && (at === 0 || numbers[at - 1] === expected - 1)
      ? [`event ${number} came where ${expected} was due`]
      : []
  })
}

function endFaults({ events, acknowledged }: Seen): string[] {
  const faults = acknowledged.flatMap(({ messageId, status = 'completed' }) => {
    const ends = endsOf(events, messageId)
    if (ends.length !== 1) return [`${messageId} ended ${ends.length} times`]
    const got = ends[0]?.data.status
    const why = events.find((event) => event.name === 'error' && event.data.messageId === messageId)?.data
    const late = events.slice(events.indexOf(ends[0]!) + 1).filter((event) => event.data.messageId === messageId)
    return [
      ...(got === status ? [] : [`${messageId} ended as ${got}, not ${status}: ${why?.code} ${why?.error}`]),
      ...late.map((event) => `${event.name} of ${messageId} came behind its end`),
    ]
  })
  const order = endsOf(events).map((event) => event.data.messageId)
  const expected = acknowledged.map(({ messageId }) => messageId)
  const inOrder =
    expected.filter((id) => order.includes(id)).join() === order.filter((id) => expected.includes(String(id))).join()
  return inOrder ? faults : [...faults, `messages ended in the order ${order}, accepted were ${expected}`]
}

function textFaults({ messageId, answer, marker }: Acknowledged, events: SseEvent[]): string[] {
  const [end] = endsOf(events, messageId)
  if (!end) return []
  const final = String(end.data.finalText)
  const streamed = streamedText(events, messageId)
  return [
    ...(streamed === final ? [] : [`${messageId} streamed ${show(streamed)} but ended with ${show(final)}`]),
    ...(answer === undefined || final === answer ? [] : [`${messageId} said ${show(final)}, not ${show(answer)}`]),
    ...(marker === undefined || final.includes(marker) ? [] : [`${messageId} did not say ${marker}: ${show(final)}`]),
  ]
}

function foreignFaults({ name, events }: Seen, own: Set<string>, markers: Map<string, string>): string[] {
  return events.flatMap((event) => {
    const { messageId } = event.data
    if (typeof messageId === 'string' && !own.has(messageId))
      return [`saw ${event.name} of a strange message ${messageId}`]
    if (event.name !== 'complete') return []
    const said = String(event.data.finalText).match(/marker-[\w-]+/g) ?? []
    return said
      .filter((word) => markers.get(word) !== name)
      .map((word) => `was shown ${word} of ${markers.get(word) ?? 'nobody'}`)
  })
}

function show(text: string): string {
  return text.length > 120 ? `“${text.slice(0, 60)}…${text.slice(-50)}” (${text.length} characters)` : `“${text}”`
}
