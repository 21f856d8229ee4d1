import { expect, test } from 'vitest'
import { statusClass } from './status-class.ts'

test('a status is one of its hundred, and what is no status is other', () => {
  expect([100, 204, 302, 404, 599].map(statusClass)).toEqual(['1xx', '2xx', '3xx', '4xx', '5xx'])
  expect([0, 99, 600, -1, Number.NaN].map(statusClass)).toEqual(Array(5).fill('other'))
})
