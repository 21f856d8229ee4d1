import type { Database } from './db/client.ts'
import type { Readiness } from './http/routes/health.ts'
import type { Loop } from './lib/loop.ts'

export type Phase = 'starting' | 'ok' | 'draining'

export interface ReadinessDeps {
  db: Database
  phase(): Phase
  /** What the schema lacks, newest check; empty when it is complete. */
  schema(): { applied: number; known: number; behind: string[] } | null
  /** Why row-level security is off; null when it is on. */
  wallFault(): string | null
  /** What is wrong with the public URL; null when nothing is. */
  publicUrlFault: string | null
  loops: Loop[]
  /** What removes old rows: work goes on without it, so it is seen here and takes nobody out of service. */
  retention?: Loop[]
  workers(): {
    workers: number
    busy: number
    warm: number
    max: number
    busyMax: number
    isolation: string
    fault: string | null
    starting: boolean
  }
  streams(): number
  facts: Record<string, unknown>
}

/** A database that does not answer within this time is down. */
const PING_MS = 1_000
/** Probes of many sources share one look. */
const CACHE_MS = 500

type Subsystem = Readiness['subsystems'][string]

/**
 * Reports every part by name, and never hangs: ready means that this replica can accept messages, work on them and
 * serve streams now. A background loop counts by the age of its last good pass, so one that died shows (I14).
 */
export function createReadiness(deps: ReadinessDeps): () => Promise<Readiness> {
  let cached: { at: number; phase: Phase; report: Promise<Readiness> } | undefined

  async function look(): Promise<Readiness> {
    const phase = deps.phase()
    const [database, about] = await Promise.all([checkDatabase(deps.db), describe(deps.db)])
    const { retention = [] } = deps
    const loops = Object.fromEntries([...deps.loops, ...retention].map((loop) => [loop.name, Math.round(loop.ageMs())]))
    const subsystems: Record<string, Subsystem> = {
      gateway: phase === 'ok' ? { state: 'ok' } : { state: phase },
      database,
      schema: checkSchema(deps.schema()),
      queue: checkLoops(deps.loops, phase),
      retention: checkRetention(retention, phase),
      workers: checkWorkers(deps.workers(), phase),
      streams: { state: 'ok', detail: `${deps.streams()} open` },
      'sign-in': { state: 'ok', detail: deps.publicUrlFault ?? 'cookies, links and callbacks by PUBLIC_WEB_URL' },
    }
    const ready = Object.values(subsystems).every(({ state }) => state === 'ok' || state === 'degraded')
    const schema = deps.schema()
    return {
      ready,
      subsystems,
      ...deps.facts,
      database: about,
      schemaVersion: schema?.applied ?? null,
      listening: deps.db.listening(),
      rowLevelSecurity: deps.wallFault() === null,
      workers: deps.workers(),
      loopAgesMs: loops,
    }
  }

  return () => {
    const [at, phase] = [performance.now(), deps.phase()]
    // Who starts to drain must be taken out of the rotation by the very next probe.
    if (!cached || at - cached.at > CACHE_MS || cached.phase !== phase) cached = { at, phase, report: look() }
    return cached.report
  }
}

async function checkDatabase(db: Database): Promise<Subsystem> {
  try {
    await db.ping(PING_MS)
    return { state: 'ok' }
  } catch {
    return { state: 'down', detail: 'does not answer' }
  }
}

async function describe(db: Database) {
  const known = await Promise.race([
    db.describe().catch(() => null),
    new Promise<null>((resolve) => setTimeout(resolve, PING_MS, null).unref()),
  ])
  return {
    kind: db.kind,
    version: known?.version ?? null,
    vector: known?.vector ?? null,
    pooler: known?.pooler ?? null,
  }
}

function checkSchema(schema: ReturnType<ReadinessDeps['schema']>): Subsystem {
  if (!schema) return { state: 'starting' }
  if (schema.behind.length === 0) return { state: 'ok', detail: `${schema.applied} migrations` }
  return { state: 'down', detail: `lacks ${schema.behind.join(', ')}: run "lobu migrate"` }
}

function checkWorkers(workers: ReturnType<ReadinessDeps['workers']>, phase: Phase): Subsystem {
  if (workers.fault !== null) return { state: 'down', detail: `cannot be started: ${workers.fault}` }
  if (phase === 'starting' || workers.starting) return { state: 'starting' }
  return { state: 'ok', detail: `isolation: ${workers.isolation}` }
}

function checkLoops(loops: Loop[], phase: Phase): Subsystem {
  if (phase !== 'ok') return { state: phase }
  const stale = loops.filter((loop) => loop.ageMs() > loop.staleMs()).map((loop) => loop.name)
  return stale.length === 0 ? { state: 'ok' } : { state: 'down', detail: `no recent pass of ${stale.join(', ')}` }
}

/** Old rows that stay cost room and nothing else for a while: a person should look, and clients should notice nothing. */
function checkRetention(loops: Loop[], phase: Phase): Subsystem {
  const { state, detail } = checkLoops(loops, phase)
  return state === 'down' ? { state: 'degraded', detail } : { state, ...(detail === undefined ? {} : { detail }) }
}
