/** A table in a document that is made from the source, between two marks. `npm run docs` rewrites it. */
import { readFileSync } from 'node:fs'

export interface GeneratedTable {
  /** The document. */
  target: URL
  /** The word of its marks: `<!-- word: begin (npm run docs) -->` and `<!-- word: end -->`. */
  name: string
  columns: string[]
  rows: string[][]
}

/** The document as it is kept, and as the source has it now. */
export function renderTable({ target, name, columns, rows }: GeneratedTable): { current: string; rendered: string } {
  const begin = `<!-- ${name}: begin (npm run docs) -->`
  const current = readFileSync(target, 'utf8')
  const before = current.slice(0, current.indexOf(begin) + begin.length)
  const after = current.slice(current.indexOf(`<!-- ${name}: end -->`))
  const lines = [columns, columns.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`)
  return { current, rendered: `${before}\n${lines.join('\n')}\n${after}` }
}
