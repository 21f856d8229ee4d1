import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { createDeltaBuffer } from './delta-buffer.ts'

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

function bufferOf() {
  const sent: string[] = []
  return { sent, buffer: createDeltaBuffer({ everyMs: 30, send: (text) => sent.push(text) }) }
}

describe('the delta buffer', () => {
  it('sends the first piece at once, then what came in each interval', () => {
    const { sent, buffer } = bufferOf()
    for (const piece of ['a', 'b', 'c']) buffer.push(piece)
    expect(sent).toEqual(['a'])
    vi.advanceTimersByTime(30)
    expect(sent).toEqual(['a', 'bc'])
    vi.advanceTimersByTime(60)
    buffer.push('d')
    expect(sent).toEqual(['a', 'bc', 'd'])
  })

  it('sends what waits when it is flushed, and the next piece at once', () => {
    const { sent, buffer } = bufferOf()
    buffer.push('a')
    buffer.push('b')
    buffer.flush()
    buffer.push('c')
    expect(sent).toEqual(['a', 'b', 'c'])
  })

  it('never sends half a character', () => {
    const { sent, buffer } = bufferOf()
    const [high, low] = ['😀'[0]!, '😀'[1]!]
    buffer.push(high)
    buffer.push(`${low} ok ${high}`)
    vi.advanceTimersByTime(30)
    buffer.push(low)
    buffer.flush()
    expect(sent.join('')).toBe('😀 ok 😀')
    expect(sent.every((piece) => piece.isWellFormed())).toBe(true)
  })

  it('sends no piece longer than 65,536 units, however fast the text comes, and cuts no character', () => {
    const { sent, buffer } = bufferOf()
    const text = `a${'😀'.repeat(200_000)}`
    buffer.push('first')
    for (let at = 0; at < text.length; at += 50_001) buffer.push(text.slice(at, at + 50_001))
    buffer.push(text)
    vi.advanceTimersByTime(30)
    buffer.flush()
    expect(sent.join('')).toBe(`first${text}${text}`)
    expect(Math.max(...sent.map((piece) => piece.length))).toBeLessThanOrEqual(65_536)
    expect(sent.every((piece) => piece.isWellFormed())).toBe(true)
  })
})
