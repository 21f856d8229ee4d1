/**
 * `npm run bench [-- name … --quick]`: runs the measurements, prints their table and writes bench/results.md.
 * Needs a Postgres with pgvector on this machine in BENCH_DATABASE_URL or TEST_DATABASE_URL, and for `sse` a C compiler.
 * Minutes, not part of the tests; compare only figures of one run, and quote ratios.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, totalmem } from 'node:os'
import { benchAccounts } from './accounts.ts'
import { benchClaims } from './claims.ts'
import { benchDelivery } from './delivery.ts'
import { benchHttp } from './http.ts'
import { benchQueue } from './queue.ts'
import { benchSse } from './sse.ts'
import { benchStarts } from './starts.ts'
import { benchStops } from './stops.ts'
import { benchStreaming } from './streaming.ts'
import { isQuick, postgresVersion } from './support.ts'
import { formatTable, missedGoals, type Row } from './table.ts'
import { benchTurns } from './turns.ts'
import { benchWakes } from './wakes.ts'
import { benchWalls } from './walls.ts'
import { benchWorkers } from './workers.ts'

/** Whom ours is compared with. */
const PEERS = ['graphile-worker', 'pg-boss', 'better-sse', 'hono', 'better-auth']
/** A measurement that hangs must not hang whoever waits for all of them. */
const MINUTES_MAX = 20

const suites: Record<string, () => Promise<Row[]>> = {
  turns: benchTurns,
  workers: benchWorkers,
  delivery: benchDelivery,
  streaming: benchStreaming,
  sse: benchSse,
  queue: benchQueue,
  claims: benchClaims,
  wakes: benchWakes,
  http: benchHttp,
  walls: benchWalls,
  starts: benchStarts,
  stops: benchStops,
  accounts: benchAccounts,
}

setTimeout(() => {
  console.error(`gave up after ${MINUTES_MAX} minutes`)
  process.exit(1)
}, MINUTES_MAX * 60_000).unref()

const chosen = process.argv.slice(2).filter((name) => name !== '--quick')
const unknown = chosen.filter((name) => !(name in suites))
if (unknown.length > 0)
  throw new Error(`no such part: ${unknown.join(', ')}; there are ${Object.keys(suites).join(', ')}`)

/** Asked for first: what is wrong here shows before minutes were spent. */
const programs = [`Node ${process.versions.node}`, `Postgres ${await postgresVersion()}`, ...PEERS.map(versionOf)]
const startedAt = performance.now()
const loadBefore = loadavg()[0]!.toFixed(1)
const sections: string[] = []
const missed: string[] = []
for (const [name, run] of Object.entries(suites)) {
  if (chosen.length > 0 && !chosen.includes(name)) continue
  const since = performance.now()
  const load = loadavg()[0]!.toFixed(1)
  const rows = await run().catch((error: unknown) => {
    // The others are worth their time all the same.
    console.error(`${name}:`, error)
    process.exitCode = 1
    missed.push(`- ${name}: could not be measured`)
    return []
  })
  const seconds = Math.round((performance.now() - since) / 1000)
  const section = `## ${name}\n\nLoad of the machine when it began ${load}; took ${seconds} s.\n\n${formatTable(rows)}\n`
  console.log(section)
  sections.push(section)
  missed.push(...missedGoals(rows).map((row) => `- ${name}: ${row}`))
}
if (chosen.length === 0 && !isQuick) {
  const goals = `## Goals missed in this run\n\n${missed.join('\n') || 'None.'}\n`
  writeFileSync(new URL('results.md', import.meta.url), [head(), goals, ...sections].join('\n'))
}
process.exit()

function head(): string {
  const commit = execFileSync('git', ['describe', '--always', '--dirty', '--exclude', '*']).toString().trim()
  const minutes = ((performance.now() - startedAt) / 60_000).toFixed(1)
  const memory = `${Math.round(totalmem() / 1024 ** 3)} GiB`
  return `# Results

\`npm run bench\`, ${new Date().toISOString().slice(0, 10)}, commit ${commit}, in ${minutes} minutes. ${cpus().length} × ${cpus()[0]?.model}, ${memory};
${programs.join(', ')}.

Medians of rounds in which ours and the peer took turns. The load generators, Postgres and whatever else the machine does share
its cores: compare only within this run, and quote ratios. The load that a part began with is what the part before left behind;
before the first it was ${loadBefore}. A goal in brackets is the stretch.
`
}

function versionOf(name: string): string {
  const { version } = JSON.parse(readFileSync(new URL(`../node_modules/${name}/package.json`, import.meta.url), 'utf8'))
  return `${name} ${version}`
}
