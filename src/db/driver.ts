import { readFile } from 'node:fs/promises'
import type { Duplex } from 'node:stream'
import postgres from 'postgres'
import type { Sql } from './driver-query.ts'
import { createSocketMaker } from './socket.ts'
import { ARRAY_OIDS, TYPES } from './types.ts'
import { type Target, tlsOptions } from './url.ts'

/** A server that does not answer a connect within this time is away. The driver's 30 s would outlast any client. */
const CONNECT_SECONDS = 5
/** Wait before a slot connects again. The driver's default grows to 20 s; ours need not grow, since the gate stops the rush. */
const RECONNECT_SECONDS = 0.1
/** Idle connections are probed after this long, so that one whose peer is gone is noticed within about 20 s. */
const KEEPALIVE_SECONDS = 10

/** The server ends what nobody can be waiting for any more: no request lives as long, and locks are freed. */
export const STATEMENT_MS_MAX = 30_000
/** Of a connection outside of the pool, which migrates: it may read a file between two statements, no more. */
const DEDICATED_IDLE_MS_MAX = 60_000

export type Settings = Record<string, string>

/** What every connection asks for. Poolers accept these two. */
export const PLAIN_SETTINGS: Settings = { application_name: 'lobu', TimeZone: 'UTC' }

/**
 * What bounds a statement and a transaction of the pool. A process that is frozen in the middle of a transaction keeps its
 * row locks until the server ends the session, so this must come before others miss a lease for it.
 */
export function poolBounds(transactionIdleMsMax: number): Settings {
  return {
    statement_timeout: String(STATEMENT_MS_MAX),
    idle_in_transaction_session_timeout: String(Math.ceil(transactionIdleMsMax)),
    // Compiling costs more than any statement of ours takes; an estimate that is far off would ask for it.
    jit: 'off',
  }
}

/** Of a dedicated connection; also undoes bounds that the server gives this user. */
export const DEDICATED_BOUNDS: Settings = {
  statement_timeout: '0',
  idle_in_transaction_session_timeout: String(DEDICATED_IDLE_MS_MAX),
}

export interface ConnectOptions {
  max: number
  settings: Settings
  /** False behind a transaction pooler: a statement prepared on one server is unknown to the next. */
  prepare: boolean
  onnotify?(channel: string, payload: string): void
  onclose?(): void
  /** A connection was lost; this client should not be used for new work. Not called by the embedded engine. */
  onLost?(): void
}

/** One database that can be connected to any number of times. Nothing is sent before the first query. */
export interface Endpoint {
  connect(options: ConnectOptions): Sql
}

/** `socket` is missing in the driver's types; its `max_lifetime` has a jittered default of 30–60 minutes. */
type DriverOptions = postgres.Options<typeof TYPES> & {
  socket?(): Duplex | Promise<Duplex>
  onnotify?: ConnectOptions['onnotify']
}

function baseOptions({ max, settings, prepare, onnotify, onclose }: ConnectOptions): DriverOptions {
  return {
    max,
    prepare,
    types: TYPES,
    connection: settings,
    connect_timeout: CONNECT_SECONDS,
    backoff: () => (0.5 + Math.random() / 2) * RECONNECT_SECONDS,
    ssl: false,
    target_session_attrs: undefined,
    keep_alive: KEEPALIVE_SECONDS,
    idle_timeout: 0,
    fetch_types: false,
    onnotice: () => {},
    ...(onnotify === undefined ? {} : { onnotify }),
    ...(onclose === undefined ? {} : { onclose }),
  }
}

/** Reads the certificate files that the URL names. @throws Error when one cannot be read. */
export async function createPostgresEndpoint(target: Target): Promise<Endpoint> {
  const files: { ca?: string; cert?: string; key?: string } = {}
  for (const [name, file] of Object.entries(target.tlsFiles)) {
    files[name as keyof typeof files] = await readFile(file, 'utf8').catch((error: unknown) => {
      throw new Error(`DATABASE_URL names a certificate file that cannot be read: ${file}`, { cause: error })
    })
  }
  const tls = tlsOptions(target.tls, files)
  return {
    connect(options) {
      const sockets = createSocketMaker({
        hosts: target.hosts,
        tls,
        connectMs: CONNECT_SECONDS * 1000,
        onLost: () => options.onLost?.(),
      })
      const sql = connectDriver({
        ...baseOptions({ ...options, settings: { ...options.settings, ...target.settings } }),
        host: target.hosts[0]!.host,
        port: target.hosts[0]!.port,
        ...definedOnly({ user: target.user, password: target.password, database: target.database }),
        ...definedOnly({ target_session_attrs: target.targetSession }),
        socket: sockets.open,
      })
      const end = sql.end.bind(sql)
      return Object.assign(sql, {
        async end(how?: { timeout?: number }) {
          sockets.retire()
          // The driver waits in vain, until its time is over, for a connection that was lost in the middle of something.
          await Promise.race([end(how), sockets.gone])
          sockets.destroy()
        },
      })
    },
  }
}

/** The engine in this process. Its connections cost nothing and cannot be lost, so they live for ever. */
export function createEmbeddedEndpoint(engine: { socket(): Duplex }): Endpoint {
  return {
    connect(options) {
      return connectDriver({
        ...baseOptions(options),
        host: 'embedded',
        user: 'postgres',
        database: 'postgres',
        max_lifetime: null,
        socket: () => engine.socket(),
      })
    },
  }
}

/** The driver's types keep every custom type; callers only need to know that bigint is a number. */
function connectDriver(options: DriverOptions): Sql {
  const sql = postgres(options) as unknown as Sql
  // Where the driver would put what it asks the server; not in its types.
  const { shared } = sql.options as unknown as { shared: { typeArrayMap: Record<number, number> } }
  Object.assign(shared.typeArrayMap, ARRAY_OIDS)
  return sql
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> }

function definedOnly<T extends Record<string, unknown>>(values: T): Defined<T> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Defined<T>
}
