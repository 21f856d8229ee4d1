/**
 * Writes the table of settings in docs/operations.md from src/config/environment.ts: the name, the default, and the comment of each
 * variable. `npm run docs` rewrites it; `tests/structure/settings.test.ts` fails when it is out of date.
 */
import { readFileSync, writeFileSync } from 'node:fs'

const SOURCE = new URL('../src/config/environment.ts', import.meta.url)
const TARGET = new URL('../docs/operations.md', import.meta.url)
const BEGIN = '<!-- settings: begin (npm run docs) -->'
const END = '<!-- settings: end -->'

/** The document with its table as the source has it now. */
export function renderSettings(): { current: string; rendered: string } {
  const current = readFileSync(TARGET, 'utf8')
  const before = current.slice(0, current.indexOf(BEGIN) + BEGIN.length)
  const after = current.slice(current.indexOf(END))
  return { current, rendered: `${before}\n${table()}\n${after}` }
}

function table(): string {
  const source = readFileSync(SOURCE, 'utf8')
  const schema = source.slice(
    source.indexOf('const Env = z.object({'),
    source.indexOf('\n})\n', source.indexOf('const Env =')),
  )
  const rows = schema.split(/\n(?= {2}(?:\/\*\*|[A-Z]))/).slice(1)
  const settings: string[] = []
  let comment = ''
  for (const row of rows) {
    if (row.trimStart().startsWith('/**')) comment = row
    const name = /^ {2}([A-Z][A-Z0-9_]+):/m.exec(row)?.[1]
    if (!name) continue
    settings.push(`| \`${name}\` | ${defaultOf(row)} | ${meaning(comment)} |`)
    comment = ''
  }
  return ['| variable | default | meaning |', '| --- | --- | --- |', ...settings].join('\n')
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
