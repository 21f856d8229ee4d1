import { expect, test } from 'vitest'
import { formatTraceparent, readTraceparent, traceIdOf } from './traceparent.ts'

const [TRACE, SPAN] = ['4bf92f3577b34da6a3ce929d0e0e4736', '00f067aa0ba902b7']

test('a well-formed header is read, and written again as it was', () => {
  const header = `00-${TRACE}-${SPAN}-01`
  expect(readTraceparent(header)).toEqual({ traceId: TRACE, spanId: SPAN, flags: 1 })
  expect(formatTraceparent(readTraceparent(header)!)).toBe(header)
  expect(traceIdOf(header)).toBe(TRACE)
})

test.each([
  undefined,
  null,
  '',
  `00-${TRACE}-${SPAN}`,
  `00-${TRACE}-${SPAN}-01-x`,
  `ff-${TRACE}-${SPAN}-01`,
  `00-${'0'.repeat(32)}-${SPAN}-01`,
  `00-${TRACE}-${'0'.repeat(16)}-01`,
  `00-${TRACE.toUpperCase()}-${SPAN}-01`,
  `00-${TRACE}-${SPAN}-01\n`,
])('what is not well-formed counts as none: %j', (header) => {
  expect(readTraceparent(header)).toBeUndefined()
})
