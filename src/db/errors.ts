import { AppError } from '../lib/errors.ts'

/**
 * Codes of postgres.js, of `socket.ts` (`CONNECT_CLOSED`), of system calls (`ECONNRESET`) and of Node's streams: no answer
 * from the server, whatever was asked.
 */
const SOCKET_CODE =
  /^(CONNECTION_(CLOSED|DESTROYED|ENDED)|CONNECT_(TIMEOUT|CLOSED)|E[A-Z0-9]+|EAI_AGAIN|ERR_(STREAM|SOCKET|SSL|TLS)_\w+)$/

/** SQLSTATEs with which a server or a pooler turns a connection away, or takes it back. */
const SERVER_CODES = new Set([
  ...['57P01', '57P02', '57P03', '57P05', '25P03', '53300', '25006', '28000', '28P01', '3D000'],
])

/** Of the codes above, those that are met while connecting: nobody else will be let in either. */
const CONNECT_CODES = new Set([
  'CONNECT_TIMEOUT',
  'CONNECT_CLOSED',
  'ECONNREFUSED',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
  'ENOENT',
  '57P03',
  '28000',
  '28P01',
  '3D000',
])

export function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null | undefined)?.code
  return typeof code === 'string' ? code : ''
}

/** The connection is gone, or was never made: nothing more can be asked on it. */
export function isSocketError(error: unknown): boolean {
  return SOCKET_CODE.test(codeOf(error))
}

/** The connection did not answer, or the server did not let us in. What was asked may or may not have been done. */
export function isConnectionError(error: unknown): boolean {
  const code = codeOf(error)
  return SOCKET_CODE.test(code) || SERVER_CODES.has(code) || code.startsWith('08')
}

/** No connection can be made at present: the server is away, unreachable, starting, or refuses our name. */
export function isConnectError(error: unknown): boolean {
  return CONNECT_CODES.has(codeOf(error))
}

/** SQLSTATEs of a server that is there and will let us in later. */
const LATER_CODES = new Set(['57P01', '57P02', '57P03', '53300'])

/**
 * Waiting may help: nobody answers at that address, or the server is starting or full. Not so where we are refused, or do
 * not agree on TLS. Looks at the causes of an error, too.
 */
export function isAway(error: unknown): boolean {
  for (let one = error; one !== undefined && one !== null; one = (one as { cause?: unknown }).cause) {
    const code = codeOf(one)
    if (
      code === 'database_unavailable' ||
      LATER_CODES.has(code) ||
      (SOCKET_CODE.test(code) && !/^(ERR_|EPROTO)/.test(code))
    )
      return true
  }
  return false
}

/** What callers see of a lost connection. It may have been lost after the commit: who tries again must be idempotent. */
export function unavailable(cause?: unknown): AppError {
  return new AppError('database_unavailable', 'The database cannot be reached right now; try again', {
    retryAfterSeconds: 1,
    cause,
  })
}

/** Connection errors become `database_unavailable`, with the driver's error as the cause; all others stay as they are. */
export function translateError(error: unknown): unknown {
  return isConnectionError(error) ? unavailable(error) : error
}

/**
 * One sentence that says why the database did not let us in and what to do, for a person at a terminal. Never contains
 * the URL or a password. Errors of another kind are answered by undefined.
 */
export function explainConnectError(error: unknown): string | undefined {
  const cause = error instanceof AppError && error.cause !== undefined ? error.cause : error
  const code = codeOf(cause)
  const where = addressOf(cause)
  if (code === '28000' && /no encryption|SSL off/.test((cause as Error).message)) {
    return 'The database takes encrypted connections only: add ?sslmode=require to DATABASE_URL.'
  }
  if (code === '28000' && (cause as Error).message.includes('pg_hba.conf')) {
    return 'The database lets nobody in from here with this user and database: check DATABASE_URL, and its pg_hba.conf.'
  }
  if (code === '28P01' || code === '28000') {
    return 'The database refused the user name or password: check them in DATABASE_URL (special characters must be percent-encoded).'
  }
  if (code === '3D000')
    return 'The database named in DATABASE_URL does not exist: create it (createdb NAME) or correct the name.'
  if (code === '53300') return 'The database has no connection left: raise max_connections or lower DATABASE_POOL_MAX.'
  if (code === '57P03') return 'The database is starting or stopping: try again in a moment.'
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') {
    return `The host name${where} in DATABASE_URL cannot be resolved: check its spelling and the DNS.`
  }
  if (code === 'ERR_TLS_NOT_OFFERED') {
    return `The database${where} does not offer TLS: remove sslmode from DATABASE_URL, or turn TLS on in the server.`
  }
  if (/^(ERR_SSL|ERR_TLS|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO)/.test(code)) {
    return `The TLS connection to the database failed (${code}): check sslmode and sslrootcert in DATABASE_URL.`
  }
  if (code === 'CONNECT_CLOSED') {
    return `What listens${where} closes each connection at once: check that it is Postgres, or that the balancer has a server behind it.`
  }
  if (!isConnectionError(cause)) return undefined
  return `The database${where} cannot be reached (${code}): check host and port in DATABASE_URL, that the server runs, and the firewall.`
}

function addressOf(error: unknown): string {
  const { address, port, hostname } = (error ?? {}) as { address?: unknown; port?: unknown; hostname?: unknown }
  const host = [address].flat()[0] ?? hostname
  if (typeof host !== 'string') return ''
  const number = [port].flat()[0]
  return number === undefined ? ` ${host}` : ` at ${host}:${number}`
}
