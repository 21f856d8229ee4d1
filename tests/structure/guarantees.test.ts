import { existsSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'

const root = new URL('../../', import.meta.url)
const text = (file: string) => readFileSync(new URL(file, root), 'utf8')
const rows = text('docs/guarantees.md')
  .split('\n')
  .filter((line) => line.startsWith('| ') && !/^\| (promise|---) /.test(line))

test('there are guarantees to look at', () => {
  expect(rows.length).toBeGreaterThan(10)
})

test.each(rows)('%s', (row) => {
  const [, , mechanism = '', kept = ''] = row.split(' | ').flatMap((cell, index) => (index === 0 ? ['', cell] : [cell]))
  const files = [...mechanism.matchAll(/`(src\/[^`]+)`/g)].map(([, file]) => file!)
  expect(files).not.toEqual([])
  for (const file of files) expect(existsSync(new URL(file, root)), file).toBe(true)
  const [, file, name] = /^`([^`]+\.test\.ts)`: "(.+)" \|$/.exec(kept) ?? []
  expect(file, 'file and name of the test').toBeDefined()
  expect(text(file!)).toContain(`test('${name}'`)
})
