import { expect, test } from 'vitest'
import { csvLine } from './csv.ts'

test.for([
  [['a', 1, null, undefined, ''], 'a,1,,,\r\n'],
  [['a,b', 'say "x"', 'two\nlines'], '"a,b","say ""x""","two\nlines"\r\n'],
  [[-5, '-5'], "-5,'-5\r\n"],
] as const)('%j is written as a line', ([cells, line]) => {
  expect(csvLine([...cells])).toBe(line)
})

test.for(['=1+1', '+1', '-1', '@SUM(A1)', '\t=1', '\r=1', ' =1', '|cmd', '%0A'])(
  '%j is no formula any more',
  (text) => {
    const cell = csvLine([text]).replace(/^"/, '')
    expect(cell.startsWith("'")).toBe(true)
    expect(cell).toContain(text)
  },
)
