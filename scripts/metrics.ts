/**
 * Writes the table of metrics in docs/observability.md from src/telemetry/definitions.ts. `npm run docs` rewrites it;
 * `tests/structure/metrics.test.ts` fails when it is out of date.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { type Definition, METRICS } from '../src/telemetry/definitions.ts'

const TARGET = new URL('../docs/observability.md', import.meta.url)
const BEGIN = '<!-- metrics: begin (npm run docs) -->'
const END = '<!-- metrics: end -->'

/** The document with its table as the source has it now. */
export function renderMetrics(): { current: string; rendered: string } {
  const current = readFileSync(TARGET, 'utf8')
  const before = current.slice(0, current.indexOf(BEGIN) + BEGIN.length)
  const after = current.slice(current.indexOf(END))
  return { current, rendered: `${before}\n${table()}\n${after}` }
}

function table(): string {
  const rows = Object.entries<Definition>(METRICS).map(([name, { kind, help, labels }]) => {
    const inLabels = labels.map((label) => `\`${label}\``).join(', ')
    return `| \`${name}\` | ${kind} | ${inLabels} | ${help} |`
  })
  return ['| metric | kind | labels | meaning |', '| --- | --- | --- | --- |', ...rows].join('\n')
}

if (import.meta.main) writeFileSync(TARGET, renderMetrics().rendered)
