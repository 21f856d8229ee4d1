/**
 * Writes the table of settings in docs/operations.md from src/config/environment.ts: the name, the default, and the comment of each
 * variable. `npm run docs` rewrites it; `tests/structure/settings.test.ts` fails when it is out of date.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { renderTable } from './generated-table.ts'

const SOURCE = new URL('../src/config/environment.ts', import.meta.url)
const TARGET = new URL('../docs/operations.md', import.meta.url)

/** The document with its table as the source has it now. */
export function renderSettings() {
  return renderTable({
    target: TARGET,
    name: 'settings',
    columns: ['variable', 'default', 'meaning'],
    rows: settings(),
  })
}

function settings(): string[][] {
  const source = readFileSync(SOURCE, 'utf8')
  const schema = source.slice(
    source.indexOf('const Env = z.object({'),
    source.indexOf('\n})\n', source.indexOf('const Env =')),
  )
  const rows = schema.split(/\n(?= {2}(?:\/\*\*|[A-Z]))/).slice(1)
  const found: string[][] = []
  let comment = ''
  for (const row of rows) {
    if (row.trimStart().startsWith('/**')) comment = row
    const name = /^ {2}([A-Z][A-Z0-9_]+):/m.exec(row)?.[1]
    if (!name) continue
    found.push([`\`${name}\``, defaultOf(row), meaning(comment)])
    comment = ''
  }
  return found
}

function meaning(comment: string): string {
  const text = /\/\*\*([\s\S]*?)\*\//.exec(comment)?.[1] ?? ''
  return text
    .replaceAll(/\s*\n\s*\*\s*/g, ' ')
    .replaceAll('|', '\\|')
    .trim()
}

/** What the schema falls back to: the argument of `default`, or of our own shorthands for seconds, counts and URLs. */
function defaultOf(type: string): string {
  const given = /\.default\(([^)]+)\)/.exec(type) ?? /(?:seconds|count|baseUrl)\(([^,)]+)/.exec(type)
  return given ? `\`${given[1]!.replaceAll("'", '').replaceAll('_', '').replace('DEFAULTPORT', '8787')}\`` : ''
}

if (import.meta.main) writeFileSync(TARGET, renderSettings().rendered)
