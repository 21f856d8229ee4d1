import { expect, test } from 'vitest'
import { formatArray, parseArray } from './arrays.ts'

const asIs = (element: unknown) => String(element)

test.each([
  ['{}', []],
  ['{1,2,3}', ['1', '2', '3']],
  ['{NULL,"NULL",null}', [null, 'NULL', 'null']],
  ['{"a,b","c}d","{e"}', ['a,b', 'c}d', '{e']],
  ['{"","quote \\" and \\\\ slash",ü}', ['', 'quote " and \\ slash', 'ü']],
  [
    '{{1,2},{3,NULL}}',
    [
      ['1', '2'],
      ['3', null],
    ],
  ],
  ['[0:1]={7,8}', ['7', '8']],
])('reads %s', (text, values) => {
  expect(parseArray(text, asIs)).toEqual(values)
})

test.each([
  [[]],
  [['plain', 'with "quotes"', 'back\\slash', '', 'NULL', null, 'a,{b}', 'line\nbreak']],
  [
    [
      ['1', '2'],
      ['3', '4'],
    ],
  ],
])('what it writes it reads back: %j', (values) => {
  expect(parseArray(String(formatArray(values, asIs)), asIs)).toEqual(values)
})

test('an array that was cut off is an error and not a shorter array', () => {
  expect(() => parseArray('{1,2', asIs)).toThrow('does not end')
  expect(() => parseArray('{"a', asIs)).toThrow('does not end')
})

test('undefined in an array is a mistake, and text passes as it is', () => {
  expect(() => formatArray([undefined], asIs)).toThrow('undefined')
  expect(formatArray('{1,2}', asIs)).toBe('{1,2}')
})
