/**
 * Writes the table of metrics in docs/observability.md from src/telemetry/definitions.ts. `npm run docs` rewrites it;
 * `tests/structure/metrics.test.ts` fails when it is out of date.
 */
import { writeFileSync } from 'node:fs'
import { type Definition, METRICS } from '../src/telemetry/definitions.ts'
import { renderTable } from './generated-table.ts'

const TARGET = new URL('../docs/observability.md', import.meta.url)

/** The document with its table as the source has it now. */
export function renderMetrics() {
  const rows = Object.entries<Definition>(METRICS).map(([name, { kind, help, labels }]) => {
    const inLabels = labels.map((label) => `\`${label}\``).join(', ')
    return [`\`${name}\``, kind, inLabels, help]
  })
  return renderTable({ target: TARGET, name: 'metrics', columns: ['metric', 'kind', 'labels', 'meaning'], rows })
}

if (import.meta.main) writeFileSync(TARGET, renderMetrics().rendered)
