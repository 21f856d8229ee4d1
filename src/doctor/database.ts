import { randomBytes } from 'node:crypto'
import type { Config } from '../config.ts'
import type { Database, Sql } from '../db/client.ts'
import { codeOf } from '../db/errors.ts'
import {
  measureClockSkew,
  type RightsFacts,
  readRights,
  readServer,
  readVector,
  type ServerFacts,
} from '../db/inspect.ts'
import type { PoolMode } from '../db/probe.ts'
import { parseDatabaseUrl } from '../db/url.ts'
import { errorLine } from '../lib/errors.ts'
import { type Finding, fail, ok, skip, warn } from './finding.ts'

const MAJOR_MIN = 15
/** The newest that the tests ran on, or that is said to work. */
const MAJOR_MAX = 18
const LISTEN_MS_MAX = 5_000
/** Noticed by nobody below: leases and due times go by the database's clock alone. */
const SKEW_MS_WARN = 2_000
/** Codes of a second factor live for half a minute, and new tokens would not count yet. */
const SKEW_MS_FAIL = 30_000
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|::1|\/.*)$/

/** The sentence of a failed connect, cut in two: what is wrong, and what to do. */
export function connectFinding(error: unknown, name = 'database'): Finding {
  const message = error instanceof Error ? error.message : String(error)
  const [, detail, fix] = /^(.+?): ((?:check|create|add|remove|raise|try|percent-encode) .+?)\.?$/.exec(message) ?? []
  return fail(name, detail ?? message, fix ?? 'correct DATABASE_URL, or the server it names')
}

/** The server itself: version, role in a cluster, encryption of the way there. */
export async function checkServer({ db }: Config, sql: Sql, mode: PoolMode): Promise<Finding[]> {
  const facts = await readServer(sql)
  return [serverFinding(facts, db.url!), tlsFinding(facts, { url: db.url!, mode })]
}

function serverFinding({ version, major, user, database, readOnly }: ServerFacts, url: string): Finding {
  const { hosts } = parseDatabaseUrl(url)
  const where = hosts.map(({ host, port }) => `${host}:${port}`).join(', ')
  const detail = `Postgres ${version} at ${where}, database "${database}", user "${user}"`
  if (major < MAJOR_MIN) return fail('database', detail, `upgrade it to Postgres ${MAJOR_MIN} or newer`)
  if (readOnly)
    return fail(
      'database',
      `${detail}: takes no writes`,
      'name the primary, or all hosts and target_session_attrs=read-write',
    )
  if (major > MAJOR_MAX) return warn('database', detail, `Postgres ${MAJOR_MAX} is the newest that this release knows`)
  return ok('database', detail)
}

function tlsFinding({ tls }: ServerFacts, { url, mode }: { url: string; mode: PoolMode }): Finding {
  const target = parseDatabaseUrl(url)
  const isOn = mode === 'none' ? tls !== null : !['disable', 'prefer'].includes(target.tls)
  const to = mode === 'none' ? '' : ' to the pooler'
  if (isOn) {
    const checked = target.tls.startsWith('verify') || target.tlsFiles.ca !== undefined
    const by = mode === 'none' ? tls : 'on'
    return ok('tls', `${by}${to}${checked ? '' : ', without looking at the certificate (sslmode=verify-full does)'}`)
  }
  if (target.hosts.every(({ host }) => LOOPBACK.test(host)))
    return ok('tls', `off${to}, and not needed on this machine`)
  return warn('tls', `off${to}: passwords and contents travel in the clear`, 'add ?sslmode=require to DATABASE_URL')
}

/** What lies between us and the server, whether LISTEN gets through, and whether the second URL is of any use. */
export async function checkPooler({ db: { directUrl }, queue }: Config, db: Database): Promise<Finding[]> {
  const { poolMode } = await db.describe()
  if (poolMode === 'transaction' && directUrl === undefined) {
    const poll = `polls every ${queue.pollMs / 1000} s instead`
    return [
      warn('pooler', 'a transaction pooler', 'set DATABASE_DIRECT_URL to the server itself'),
      skip('listen', `impossible through a transaction pooler; the gateway ${poll}`),
    ]
  }
  const words = {
    none: 'none, a direct connection',
    session: 'a session pooler',
    transaction: 'a transaction pooler, and DATABASE_DIRECT_URL beside it',
  }
  return [ok('pooler', words[poolMode]), await checkListen(db, directUrl)]
}

/** Rings a bell through one connection and waits for it on the other. Nothing is stored by that. */
async function checkListen(db: Database, directUrl: string | undefined): Promise<Finding> {
  const channel = `lobu_doctor_${randomBytes(8).toString('hex')}`
  const heard = Promise.withResolvers<boolean>()
  const timer = setTimeout(() => heard.resolve(false), LISTEN_MS_MAX)
  try {
    const direct = directUrl === undefined ? null : await findDirectFault(db)
    if (direct !== null) return direct
    await db.listen(
      channel,
      () => heard.resolve(true),
      () => {},
    )
    await db.sql`select pg_notify(${channel}, 'x')`
    if (await heard.promise) return ok('listen', 'works: notifications arrive')
  } finally {
    clearTimeout(timer)
  }
  if (directUrl !== undefined)
    return fail(
      'listen',
      'DATABASE_DIRECT_URL does not hear what DATABASE_URL says',
      'let both lead to the same database of the same primary',
    )
  return fail('listen', 'no notification arrived', 'set DATABASE_DIRECT_URL to the server itself')
}

async function findDirectFault(db: Database): Promise<Finding | null> {
  try {
    const { session, end } = await db.dedicated()
    await end()
    if (session) return null
    return fail('listen', 'DATABASE_DIRECT_URL is a transaction pooler, too', 'let it name the server itself')
  } catch (error) {
    return connectFinding(error, 'listen')
  }
}

/** Whether vectors can be stored, now or after `migrate`. Asked as the user who migrates. */
export async function checkVector(sql: Sql): Promise<Finding> {
  const { installed, visible, available, trusted } = await readVector(sql)
  if (installed !== null && visible) return ok('pgvector', installed)
  if (installed !== null)
    return fail(
      'pgvector',
      `${installed}, in a schema that is not searched`,
      'run "alter extension vector set schema public" as a superuser',
    )
  if (available === null)
    return fail(
      'pgvector',
      'not installed on the server',
      'install it (Debian: postgresql-NN-pgvector; Docker: the image pgvector/pgvector:pgNN)',
    )
  const { superuser, createInDatabase } = await readRights(sql)
  if (superuser || (trusted && createInDatabase)) return ok('pgvector', `${available}; "lobu migrate" creates it`)
  return fail(
    'pgvector',
    `${available} is there, but this user may not create it`,
    'run "create extension vector" once in this database as a superuser',
  )
}

/** Whether this user may migrate. One that does not have to need not. */
export async function checkRights(sql: Sql, { migratesHere }: { migratesHere: boolean }): Promise<Finding> {
  const rights = await readRights(sql)
  const missing = missingRights(rights)
  if (missing === null)
    return ok('rights', rights.superuser ? 'a superuser' : 'may create and alter what migrations need')
  const fix = 'as a superuser: alter database NAME owner to USER; or let the user who owns the tables migrate'
  if (migratesHere) return fail('rights', missing, fix)
  return ok('rights', `${missing}; fine as long as another user runs "lobu migrate"`)
}

function missingRights({ schema, createInSchema, createInDatabase, foreignTables }: RightsFacts): string | null {
  if (schema === null) return 'no schema that this user may enter'
  if (foreignTables > 0) return `${foreignTables} of our tables belong to another user`
  if (!createInSchema) return `may create nothing in the schema "${schema}"`
  return createInDatabase ? null : 'may create no schema in this database'
}

/** How far the clocks of this machine and of the database are apart. */
export async function checkClock(sql: Sql, now: () => number): Promise<Finding> {
  const skewMs = await measureClockSkew(sql, now)
  const by = Math.abs(skewMs)
  const detail = `${(by / 1000).toFixed(1)} s ${skewMs > 0 ? 'behind' : 'ahead of'} the database`
  const fix = 'let both follow a time server (chrony, systemd-timesyncd)'
  if (by > SKEW_MS_FAIL) return fail('clock', detail, fix)
  if (by > SKEW_MS_WARN) return warn('clock', detail, fix)
  return ok('clock', 'agrees with the database')
}

/** A check that broke in itself tells that in its own line, and hides no other. */
export async function guarded(name: string, check: () => Promise<Finding | Finding[]>): Promise<Finding[]> {
  try {
    return [await check()].flat()
  } catch (error) {
    const fix =
      codeOf(error) === '42501'
        ? 'let DATABASE_URL name the owner of the tables, or grant this user what it lacks'
        : 'look at the log of the database server'
    return [fail(name, `could not be looked at: ${errorLine(error)}`, fix)]
  }
}
