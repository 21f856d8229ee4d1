import { expect, test } from 'vitest'
import { backoffMs, jitter } from './backoff.ts'

const SAMPLES = 500

test('a wait doubles with each attempt, is spread over its upper half, and never passes the longest', () => {
  for (let attempt = 1; attempt <= 100; attempt++) {
    const ceiling = Math.min(30_000, 500 * 2 ** (attempt - 1))
    const waits = Array.from({ length: SAMPLES }, () => backoffMs(attempt))
    expect(Math.min(...waits)).toBeGreaterThanOrEqual(ceiling / 2)
    expect(Math.max(...waits)).toBeLessThanOrEqual(ceiling)
    expect(Math.max(...waits) - Math.min(...waits)).toBeGreaterThan(ceiling / 4)
  }
})

test('a wait is a whole, finite number of milliseconds for any attempt', () => {
  for (const attempt of [0, 1, 31, 1_000, 10_000_000]) {
    const wait = backoffMs(attempt, { baseMs: 100, maxMs: 2_000 })
    expect(Number.isSafeInteger(wait)).toBe(true)
    expect(wait).toBeGreaterThan(0)
    expect(wait).toBeLessThanOrEqual(2_000)
  }
})

test('a period is spread by a fifth to either side', () => {
  const periods = Array.from({ length: SAMPLES }, () => jitter(10_000))
  expect(Math.min(...periods)).toBeGreaterThanOrEqual(8_000)
  expect(Math.max(...periods)).toBeLessThanOrEqual(12_000)
  expect(Math.min(...periods)).toBeLessThan(9_000)
  expect(Math.max(...periods)).toBeGreaterThan(11_000)
})
