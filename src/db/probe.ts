import { type Endpoint, PLAIN_SETTINGS, type Settings } from './driver.ts'
import type { Sql } from './driver-query.ts'
import { codeOf } from './errors.ts'

/** Who is between us and the server: nobody, a pooler that keeps our server for the session, or one that swaps it. */
export type PoolMode = 'none' | 'session' | 'transaction'

export interface Findings {
  mode: PoolMode
  /** Settings that were accepted at connect. */
  settings: Settings
  /** What was asked for besides the plain ones and may not be in force, since a pooler refuses it or swallows it. */
  unsure: Settings
}

/** A and B ask in this order. Twice in a row shows a pooler that goes round its servers; alternating, one that reuses the last. */
const ORDER = ['a', 'a', 'b', 'a', 'b', 'b', 'a'] as const

/**
 * Finds out what kind of connection this is, in one round trip for a plain server.
 *
 * A server tells its process id twice, at connect and by `pg_backend_pid()`; when they differ, something answers in its
 * place. If then two connections are served by one process, or one by two, the server changes between transactions.
 *
 * `bounds` are asked for besides the plain settings; PgBouncer refuses settings that it does not track.
 *
 * @throws what the driver throws when the database cannot be reached.
 */
export async function probeEndpoint(endpoint: Endpoint, bounds: Settings): Promise<Findings> {
  const settings = { ...PLAIN_SETTINGS, ...bounds }
  try {
    const mode = await findMode(endpoint, settings)
    return { mode, settings, unsure: mode === 'none' ? {} : bounds }
  } catch (error) {
    if (!refusesSettings(error)) throw error
    return { mode: await findMode(endpoint, PLAIN_SETTINGS), settings: PLAIN_SETTINGS, unsure: bounds }
  }
}

async function findMode(endpoint: Endpoint, settings: Settings): Promise<PoolMode> {
  const options = { max: 1, settings, prepare: false, onnotify: () => {} }
  const clients = { a: endpoint.connect(options), b: endpoint.connect(options) }
  try {
    const { told, real } = await askPid(clients.a)
    if (told === real) return 'none'
    const seen = { a: new Set([real]), b: new Set<number>() }
    for (const name of ORDER) seen[name].add((await askPid(clients[name])).real)
    const shared = [...seen.a].some((pid) => seen.b.has(pid))
    return shared || seen.a.size > 1 || seen.b.size > 1 ? 'transaction' : 'session'
  } finally {
    await Promise.all([clients.a.end({ timeout: 1 }), clients.b.end({ timeout: 1 })])
  }
}

async function askPid(sql: Sql) {
  const rows = await sql.unsafe<{ pid: number }[]>('select pg_backend_pid() as pid')
  return { told: rows.state.pid, real: rows[0]!.pid }
}

/** PgBouncer says 08P01 "unsupported startup parameter"; others say that the feature is not there. */
function refusesSettings(error: unknown) {
  return (
    codeOf(error) === '0A000' ||
    (error instanceof Error && /startup parameter|command-line option/i.test(error.message))
  )
}
