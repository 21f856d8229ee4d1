/**
 * `npm run bench [-- name …]`: runs the measurements, prints their table and writes bench/results.md.
 * Needs a Postgres with pgvector in BENCH_DATABASE_URL or TEST_DATABASE_URL. Minutes, not part of the tests; compare
 * only figures of one run, and quote ratios.
 */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { cpus, loadavg } from 'node:os'
import { benchAccounts } from './accounts.ts'
import { benchDelivery } from './delivery.ts'
import { benchQueue } from './queue.ts'
import { benchStarts } from './starts.ts'
import type { Row } from './support.ts'
import { benchTurns } from './turns.ts'
import { benchWalls } from './walls.ts'

const suites: Record<string, () => Promise<Row[]>> = {
  turns: benchTurns,
  delivery: benchDelivery,
  queue: benchQueue,
  walls: benchWalls,
  starts: benchStarts,
  accounts: benchAccounts,
}

const chosen = process.argv.slice(2)
const sections: string[] = []
for (const [name, run] of Object.entries(suites)) {
  if (chosen.length > 0 && !chosen.includes(name)) continue
  const rows = await run()
  const section = `## ${name}\n\n${table(rows)}\n`
  console.log(section)
  sections.push(section)
}
if (chosen.length === 0) {
  const head = `# Results\n\n\`npm run bench\`, ${new Date().toISOString().slice(0, 10)}: ${machine()}. Medians; compare only within this run.\n`
  writeFileSync(new URL('results.md', import.meta.url), [head, ...sections].join('\n'))
}
process.exit(0)

function table(rows: Row[]): string {
  const lines = rows.map(({ name, ours, peer, unit, goal }) => {
    const against = peer ? `${peer.name}: ${figure(peer.value)} ${unit}` : ''
    const ratio = peer ? `${figure(ours / peer.value)}×` : ''
    return `| ${name} | ${figure(ours)} ${unit} | ${against} | ${ratio} | ${goal ?? ''} |`
  })
  return ['| what | ours | peer or floor | ratio | goal |', '| --- | --- | --- | --- | --- |', ...lines].join('\n')
}

function figure(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString('en') : value.toPrecision(3).replace(/\.?0+$/, '')
}

function machine(): string {
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD']).toString().trim()
  return `${cpus().length} × ${cpus()[0]?.model}, load ${loadavg()[0]!.toFixed(1)}, Node ${process.versions.node}, commit ${commit}`
}
