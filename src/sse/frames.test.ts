import { expect, test } from 'vitest'
import {
  encodeChunk,
  encodeEventLine,
  FINAL_CHUNK,
  formatEvent,
  formatNotice,
  formatRetry,
  parseEventLines,
} from './frames.ts'

/** What one client or another takes for the end of a line, beside what the specification names. */
const ANY_LINE_END = /[\n\r\x85\u2028\u2029]/

/** Data that has tried to break frames, lines and chunks. */
const NASTY = [
  {},
  { content: 'line\nline\r\nline\r' },
  { content: 'data: x\n\nevent: complete\n\n' },
  { content: '\u2028\u2029\u0085\0\u001f"\\' },
  { content: '0\r\n\r\n' },
  { content: 'é 😀 \uD83D 漢字'.repeat(1000) },
  { 'a b': { c: [1, null, true] } },
]

test.each(NASTY.map((data, i) => [i, data] as const))(
  'event %d travels as one line and comes back the same',
  (_, data) => {
    const line = encodeEventLine('output', data)
    expect(line).not.toMatch(ANY_LINE_END)
    const lines = [line, encodeEventLine('complete', { n: 1 }), line].join('\n')
    const events = parseEventLines(lines, 7)
    expect(events.map(({ seq, name }) => [seq, name])).toEqual([
      [7, 'output'],
      [8, 'complete'],
      [9, 'output'],
    ])
    for (const { data: text } of [events[0]!, events[2]!]) expect(JSON.parse(text)).toEqual(data)
  },
)

test.each(NASTY.map((data, i) => [i, data] as const))('event %d is a frame of exactly three lines', (_, data) => {
  const [event] = parseEventLines(encodeEventLine('tool-use', data), 12)
  const frame = formatEvent(event!)
  expect(frame.split(ANY_LINE_END)).toEqual(['id: 12', 'event: tool-use', expect.stringMatching(/^data: /), '', ''])
  expect(JSON.parse(frame.slice(frame.indexOf('data: ') + 6))).toEqual(JSON.parse(JSON.stringify(data)))
})

test('a notice has no number, and a retry no event', () => {
  expect(formatNotice('closed', { reason: 'ended' })).toBe('event: closed\ndata: {"reason":"ended"}\n\n')
  expect(formatRetry(500)).toBe('retry: 500\n\n')
})

test('a chunk says its length in bytes, in hexadecimal', () => {
  expect(encodeChunk('é😀').toString()).toBe('6\r\né😀\r\n')
  expect(encodeChunk('x'.repeat(300)).toString()).toBe(`12c\r\n${'x'.repeat(300)}\r\n`)
  expect(FINAL_CHUNK.toString()).toBe('0\r\n\r\n')
})

test('nothing is no chunk: it would end the body', () => {
  expect(encodeChunk('')).toHaveLength(0)
})
