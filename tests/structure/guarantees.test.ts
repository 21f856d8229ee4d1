import { existsSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'

const root = new URL('../../', import.meta.url)
const text = (file: string) => readFileSync(new URL(file, root), 'utf8')
const lines = (file: string) => text(file).split('\n')
const isThere = (file: string) => existsSync(new URL(file, root))
const rows = [
  ...lines('docs/guarantees.md').filter((line) => line.startsWith('| ') && !/^\| (promise|---) /.test(line)),
  ...lines('docs/security.md').filter((line) => line.startsWith('| ') && line.includes('.test.ts`')),
]

test('there are guarantees to look at', () => {
  expect(rows.length).toBeGreaterThan(30)
})

test.each(rows)('%s', (row) => {
  const [, , mechanism = '', kept = ''] = row.split(' | ').flatMap((cell, index) => (index === 0 ? ['', cell] : [cell]))
  const files = [...mechanism.matchAll(/`(src\/[^`]+)`/g)].map(([, file]) => file!)
  expect(files).not.toEqual([])
  for (const file of files) expect(isThere(file), file).toBe(true)
  const [, file, name] = /^`([^`]+\.test\.ts)`: "(.+)" \|$/.exec(kept) ?? []
  expect(file, 'file and name of the test').toBeDefined()
  expect(text(file!)).toContain(`('${name}'`)
})

describe('docs/failure-modes.md', () => {
  const modes = lines('docs/failure-modes.md').filter((line) => /^\| \d/.test(line))
  /** What concerns connectors, chat platforms, approvals and vector search comes with these. */
  const COVERED = [
    ...[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 27, 29, 30, 31, 32, 33],
    ...[34, 35, 36, 40, 41, 42, 43, 44, 59, 62, 63, 65, 66, 67, 68, 69, 70],
  ]

  test('has each mode once', () => {
    expect(modes.map((row) => Number.parseInt(row.slice(2), 10))).toEqual(COVERED)
  })

  test.each(modes.map((row) => row.slice(2, -2).split(' | ')))('%s', (_, what = '', tests = '') => {
    const files = [...what.matchAll(/`((?:src|chart|scripts)\/[^`]+)`/g)].map(([, file]) => file!)
    expect(files).not.toEqual([])
    for (const file of files) expect(isThere(file), file).toBe(true)
    const named = tests.split('; `').map((one) => /^`?([^`]+\.ts)`: "([^"]+)"$/.exec(one))
    expect(named.filter((one) => one === null)).toEqual([])
    // Some stand in a line of their own, and those of the chart are keys of a table.
    for (const [, file, name] of named.flatMap((one) => (one ? [one] : [])))
      expect(text(file!), name).toContain(`'${name}'`)
  })
})
