import { existsSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'

const root = new URL('../../', import.meta.url)
const text = (file: string) => readFileSync(new URL(file, root), 'utf8')
const lines = (file: string) => text(file).split('\n')
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
  for (const file of files) expect(existsSync(new URL(file, root)), file).toBe(true)
  const [, file, name] = /^`([^`]+\.test\.ts)`: "(.+)" \|$/.exec(kept) ?? []
  expect(file, 'file and name of the test').toBeDefined()
  expect(text(file!)).toContain(`('${name}'`)
})
