import { expect, test } from 'vitest'
import { cutText, storable } from './text.ts'

const LONE_HIGH = '\uD83D'
const LONE_LOW = '\uDE00'

test('what Postgres cannot store is replaced, everything else stays', () => {
  expect(storable(`a\0b${LONE_HIGH}c${LONE_LOW}d 😀 é\n\t`)).toBe('a\uFFFDb\uFFFDc\uFFFDd 😀 é\n\t')
})

test('every string of a JSON value is looked at, keys too', () => {
  const value = { 'k\0': ['x\0', { deep: LONE_HIGH, n: 1, no: null, yes: true }], empty: {}, list: [] }
  expect(storable(value)).toEqual({
    'k\uFFFD': ['x\uFFFD', { deep: '\uFFFD', n: 1, no: null, yes: true }],
    empty: {},
    list: [],
  })
})

test('a key called __proto__ stays a plain key', () => {
  const value = storable(JSON.parse('{"__proto__": {"admin": true}}'))
  expect(Object.keys(value)).toEqual(['__proto__'])
  expect(value.admin).toBeUndefined()
})

test('other values pass through', () => {
  for (const value of [0, 1.5, true, null, undefined]) expect(storable(value)).toBe(value)
})

test('a text is cut into pieces that are it together, and no character is cut in two', () => {
  const text = 'ab😀cd😀'
  for (let size = 1; size <= 9; size++) {
    const pieces = [...cutText(text, size)]
    expect(pieces.join('')).toBe(text)
    for (const piece of pieces) expect(piece.length).toBeLessThanOrEqual(size)
    if (size > 1) expect(pieces.every((piece) => piece.isWellFormed())).toBe(true)
  }
  expect([...cutText('', 5)]).toEqual([])
})
