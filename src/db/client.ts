import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import type { Logger } from 'pino'
import {
  createEmbeddedEndpoint,
  createPostgresEndpoint,
  DEDICATED_BOUNDS,
  type Endpoint,
  PLAIN_SETTINGS,
  poolBounds,
  STATEMENT_MS_MAX,
} from './driver.ts'
import type { Sql } from './driver-query.ts'
import type { EmbeddedDatabase } from './embedded/index.ts'
import { explainConnectError } from './errors.ts'
import { createGate } from './gate.ts'
import { guardSql } from './guard.ts'
import { createListener, createMuteListener } from './listen.ts'
import { type Findings, type PoolMode, probeEndpoint } from './probe.ts'
import { createReplaceablePool, endPool, trackPool } from './replaceable-pool.ts'
import { parseDatabaseUrl } from './url.ts'

export type { Sql, Tx } from './driver-query.ts'

/** drizzle over the same pool; for what is not hot, since its builder costs time and its statements are parsed each time. */
export type Orm = PostgresJsDatabase

/** The embedded engine does one thing at a time; more connections would only wait inside it. */
const EMBEDDED_POOL_MAX = 8
/** The server ends a statement earlier than this. One that is still unanswered was sent to a peer that is gone. */
const STUCK_MS = STATEMENT_MS_MAX + 5_000
const WATCH_MS = 1_000
const TRANSACTION_IDLE_MS_MAX = 5_000
const DESCRIBE_MS = 60_000
const MAIN = 'DATABASE_URL'
const DIRECT = 'DATABASE_DIRECT_URL'

export interface DatabaseOptions {
  /** `DATABASE_URL`. Absent: the embedded database. */
  url?: string | undefined
  /** `DATABASE_DIRECT_URL`: for LISTEN and migrations when `url` is a transaction pooler. */
  directUrl?: string | undefined
  poolMax: number
  /** A transaction that does nothing for so long is ended by the server, and its connection with it. */
  transactionIdleMsMax?: number
  /** Folder of the embedded database; null keeps it in memory. */
  dataDir: string | null
  /** Speeds up the first start of the embedded database. */
  templateFile?: string
  /** An embedded engine that runs already and stays so after `close`. For several pools in one process. */
  engine?: EmbeddedDatabase
  log: Logger
}

export interface Description {
  /** For example `15.20`. */
  version: string
  pooler: boolean
  poolMode: PoolMode
  /** Version of pgvector in this database, null without it. */
  vector: string | null
}

/** A client of one connection that is not part of the pool, without a statement timeout. Whoever asks for it ends it. */
export interface Dedicated {
  sql: Sql
  /** False when all the connection has is a transaction pooler: session locks and settings would land anywhere. */
  session: boolean
  end(): Promise<void>
}

export interface Database {
  readonly kind: 'postgres' | 'embedded'
  /**
   * postgres.js. `bigint` comes as number (RangeError past 2^53), `timestamptz` as Date, `json` parsed; a string given for
   * a json column is JSON text already. What finds no connection within 10 s, or no server, rejects with `database_unavailable`.
   */
  readonly sql: Sql
  readonly orm: Orm
  /**
   * LISTEN on a connection of its own. `onReady` runs after every (re)LISTEN, so that the caller reads the tables again.
   * Resolves after the first attempt, successful or not. Channels have at most 63 bytes. Returns an unlisten.
   */
  listen(channel: string, onPayload: (payload: string) => void, onReady: () => void): Promise<() => Promise<void>>
  /** False while LISTEN is down or cannot be had: pollers shorten their interval. */
  listening(): boolean
  /** Cached for a minute. */
  describe(): Promise<Description>
  /** Resolves when the server answers within the time, rejects otherwise. */
  ping(timeoutMs: number): Promise<void>
  dedicated(): Promise<Dedicated>
  /** How many places the pool has, how many are in use, and how many statements wait for one. */
  load(): { places: number; busy: number; waiting: number }
  /** Resolves when the embedded engine dies; never on Postgres. */
  readonly failed: Promise<Error>
  /** Lets running queries finish for 5 s. Twice is harmless. */
  close(): Promise<void>
}

/**
 * Opens the database that the settings name and finds out what it can do.
 *
 * @throws Error with one sentence on what is wrong and what to do when it cannot be reached.
 */
export async function openDatabase(options: DatabaseOptions): Promise<Database> {
  return options.url === undefined ? openEmbedded(options) : openPostgres(options, options.url)
}

async function openPostgres(options: DatabaseOptions, url: string): Promise<Database> {
  const { log } = options
  const target = parseDatabaseUrl(url)
  const endpoint = await createPostgresEndpoint(target)
  const bounds = poolBounds(options.transactionIdleMsMax ?? TRANSACTION_IDLE_MS_MAX)
  const found = await explained(probeEndpoint(endpoint, bounds))
  if (target.saysPooler && found.mode !== 'none') found.mode = 'transaction'
  const { directUrl } = options
  const direct = directUrl === undefined ? undefined : await named(DIRECT, async () => parseDatabaseUrl(directUrl))
  const directEndpoint = direct === undefined ? endpoint : await named(DIRECT, () => createPostgresEndpoint(direct))
  const ignored = [...target.ignored, ...(direct?.ignored ?? [])]
  if (ignored.length > 0) log.warn({ parameters: ignored }, 'the database URL has parameters without meaning here')
  const canListen = found.mode !== 'transaction' || direct !== undefined
  if (!canListen)
    log.warn('DATABASE_URL is a transaction pooler: set DATABASE_DIRECT_URL for LISTEN; until then we poll')
  return assemble({
    kind: 'postgres',
    endpoint,
    directEndpoint,
    found,
    canListen,
    poolMax: options.poolMax,
    log,
    findDirect: () => named(direct ? DIRECT : MAIN, () => explained(probeEndpoint(directEndpoint, DEDICATED_BOUNDS))),
    failed: new Promise(() => {}),
    stop: async () => {},
  })
}

async function openEmbedded(options: DatabaseOptions): Promise<Database> {
  const { log, dataDir, templateFile } = options
  const { startEmbeddedDatabase } = await import('./embedded/index.ts')
  const engine =
    options.engine ??
    (await startEmbeddedDatabase({ dataDir, log, ...(templateFile === undefined ? {} : { templateFile }) }))
  const endpoint = createEmbeddedEndpoint(engine)
  // One session serves all: a setting of one connection would be everybody's, so there are none.
  const found: Findings = { mode: 'none', settings: {}, unsure: {} }
  return assemble({
    kind: 'embedded',
    endpoint,
    directEndpoint: endpoint,
    found,
    canListen: true,
    poolMax: Math.min(options.poolMax, EMBEDDED_POOL_MAX),
    log,
    findDirect: async () => found,
    failed: engine.failed,
    stop: async () => (options.engine === undefined ? engine.stop() : undefined),
  })
}

interface Parts {
  kind: Database['kind']
  endpoint: Endpoint
  directEndpoint: Endpoint
  found: Findings
  canListen: boolean
  poolMax: number
  log: Logger
  findDirect(): Promise<Findings>
  failed: Promise<Error>
  stop(): Promise<void>
}

function assemble(parts: Parts): Database {
  const { endpoint, directEndpoint, found, poolMax, log } = parts
  const prepare = found.mode !== 'transaction'
  const connect = (onLost: () => void) => endpoint.connect({ max: poolMax, settings: found.settings, prepare, onLost })
  const pool = createReplaceablePool({ log }, { connect })
  const ask = () => pool.current().sql.unsafe('select 1')
  const gate = createGate({ log }, { places: poolMax, probe: () => ask().then() })
  const sql = guardSql({ current: pool.current, gate }, { transactionSettings: found.unsure })
  const listener = parts.canListen
    ? createListener(
        { log },
        { connect: (hooks) => directEndpoint.connect({ max: 1, settings: PLAIN_SETTINGS, prepare: false, ...hooks }) },
      )
    : createMuteListener()
  const watch = setInterval(() => {
    if (parts.kind === 'postgres' && pool.current().flights.oldestMs() > STUCK_MS) pool.replace('a query got no answer')
  }, WATCH_MS).unref()
  let closing: Promise<void> | undefined

  async function close() {
    gate.close()
    clearInterval(watch)
    await listener.close()
    await pool.end()
    await parts.stop()
  }

  return {
    kind: parts.kind,
    sql,
    orm: createOrm(sql),
    listen: listener.listen,
    listening: listener.listening,
    describe: cached(() => describe(sql, found.mode), DESCRIBE_MS),
    ping: async (timeoutMs) => {
      if (gate.isDown()) throw new Error('the database cannot be reached')
      await withTimeout(ask(), timeoutMs)
    },
    dedicated: async () => openDedicated(directEndpoint, await parts.findDirect(), log),
    load: gate.load,
    failed: parts.failed,
    close() {
      closing ??= close()
      return closing
    },
  }
}

/**
 * drizzle overwrites the parsers of the client that it is given, and ours would return times as text from then on. So it
 * gets the three members that it uses, with options of its own to write into; its columns take Dates as well.
 */
function createOrm(sql: Sql): Orm {
  const client = { unsafe: sql.unsafe, begin: sql.begin, options: { parsers: {}, serializers: {} } }
  return drizzle({ client: client as unknown as Sql })
}

function openDedicated(endpoint: Endpoint, { mode, settings, unsure }: Findings, log: Logger): Dedicated {
  const session = mode !== 'transaction'
  const pool = trackPool(endpoint.connect({ max: 1, settings, prepare: false }))
  const gate = createGate({ log }, { places: 1, probe: () => pool.sql.unsafe('select 1').then() })
  const sql = guardSql({ current: () => pool, gate }, { transactionSettings: unsure })
  return {
    sql,
    session,
    async end() {
      gate.close()
      await endPool(pool)
    },
  }
}

async function describe(sql: Sql, poolMode: PoolMode): Promise<Description> {
  const [row] = await sql<{ version: string; vector: string | null }[]>`
    select current_setting('server_version') as version,
           (select extversion from pg_extension where extname = 'vector') as vector`
  return { version: row!.version.split(' ')[0]!, pooler: poolMode !== 'none', poolMode, vector: row!.vector }
}

/** Errors speak of `DATABASE_URL`; here they may be about another one. */
async function named<T>(variable: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (variable === MAIN || !(error instanceof Error)) throw error
    throw new Error(error.message.replaceAll(MAIN, variable), { cause: error })
  }
}

async function explained<T>(work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    const sentence = explainConnectError(error)
    if (sentence === undefined) throw error
    throw new Error(sentence, { cause: error })
  }
}

/** Asks at most once in `ms`; a failure is not kept. */
function cached<T>(ask: () => Promise<T>, ms: number): () => Promise<T> {
  let kept: { value: Promise<T>; until: number } | undefined
  return () => {
    if (kept !== undefined && kept.until > performance.now()) return kept.value
    const value = ask()
    const mine = { value, until: performance.now() + ms }
    kept = mine
    value.catch(() => {
      if (kept === mine) kept = undefined
    })
    return value
  }
}

async function withTimeout(work: Promise<unknown>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`the database did not answer within ${ms} ms`)), ms)
  })
  try {
    await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}
