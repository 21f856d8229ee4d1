import type { ConnectionOptions as TlsOptions } from 'node:tls'
import type { Host } from './socket.ts'

/** Where a database is and how to talk to it: what `DATABASE_URL` says, in the driver's terms. */
export interface Target {
  /** At least one. Several are the nodes of one cluster; `targetSession` tells which of them is meant. */
  hosts: Host[]
  /** Absent: the driver's defaults, which are libpq's. */
  user: string | undefined
  password: string | undefined
  database: string | undefined
  tls: TlsSetting
  /** Files of `sslrootcert`, `sslcert` and `sslkey`, to be read by whoever connects. */
  tlsFiles: { ca?: string; cert?: string; key?: string }
  /** Server settings that the URL asks for; sent at connect. */
  settings: Record<string, string>
  targetSession: 'read-write' | 'primary' | undefined
  /** The URL says by itself (`pgbouncer=true`) that a transaction pooler is in between. */
  saysPooler: boolean
  /** Names of parameters that have no meaning here. Left in the URL, they would break connecting. */
  ignored: string[]
}

/** `require` encrypts and does not look at the certificate; `verify-full` checks it and the host name. As in libpq. */
export type TlsSetting = 'disable' | 'prefer' | 'require' | 'verify-ca' | 'verify-full'

const POSTGRES_PORT = 5432

const TLS_SETTINGS = new Set<string>(['disable', 'prefer', 'require', 'verify-ca', 'verify-full'])

/** Server settings that may ride in a URL. `options` carries a hosting service's routing, too. */
const SETTINGS = new Set(['application_name', 'options', 'search_path', 'statement_timeout', 'lock_timeout'])

/** Parameters of other drivers and poolers that are dropped without a word, since nothing is lost with them. */
const MEANINGLESS = new Set([
  'channel_binding',
  'connect_timeout',
  'connection_limit',
  'gssencmode',
  'pool_timeout',
  'sslnegotiation',
  'supa',
  'uselibpqcompat',
])

/**
 * Reads a Postgres URL. An unknown parameter would reach the server as a setting and break connecting, so only those
 * that mean something to us are kept. Pure; reads no file.
 *
 * @throws Error that names the fault and not the URL.
 */
export function parseDatabaseUrl(text: string): Target {
  const [, authority, path = '', query = ''] =
    /^postgres(?:ql)?:\/\/([^/?]*)(?:\/([^?]*))?(?:\?(.*))?$/s.exec(text) ?? []
  if (authority === undefined) throw new Error('DATABASE_URL must start with postgres:// or postgresql://')
  const at = authority.lastIndexOf('@')
  const [user = '', password = ''] = splitOnce(authority.slice(0, Math.max(at, 0)), ':')
  const target: Target = {
    hosts: authority
      .slice(at + 1)
      .split(',')
      .map(parseHost),
    user: decode(user) || undefined,
    password: decode(password) || undefined,
    database: decode(path) || undefined,
    tls: 'disable',
    tlsFiles: {},
    settings: {},
    targetSession: undefined,
    saysPooler: false,
    ignored: [],
  }
  for (const [name, value] of new URLSearchParams(query)) applyParameter(target, name, value)
  return target
}

function parseHost(text: string): Host {
  const [, name = '', port = ''] = /^(\[[^\]]*\]|[^:]*)(?::(\d+))?$/.exec(decode(text)) ?? []
  if (name === '' && text !== '') throw new Error('DATABASE_URL has a host or port that cannot be read')
  return { host: name.replace(/^\[|\]$/g, '') || 'localhost', port: Number(port || POSTGRES_PORT) }
}

function applyParameter(target: Target, name: string, value: string) {
  if (value === '') return
  if (name === 'sslmode' || name === 'ssl') target.tls = tlsSetting(value)
  else if (name === 'sslrootcert') applyRootCertificate(target, value)
  else if (name === 'sslcert') target.tlsFiles.cert = value
  else if (name === 'sslkey') target.tlsFiles.key = value
  else if (name === 'host') target.hosts = value.split(',').map((host) => ({ host, port: target.hosts[0]!.port }))
  else if (name === 'pgbouncer') target.saysPooler = value === 'true' || value === '1'
  else if (name === 'target_session_attrs' && (value === 'read-write' || value === 'primary'))
    target.targetSession = value
  else if (SETTINGS.has(name)) target.settings[name] = value
  else if (name === 'schema' && value === 'public') return
  else if (!MEANINGLESS.has(name)) target.ignored.push(name)
}

/** `system` means the certificates that come with Node, and asks for the full check. */
function applyRootCertificate(target: Target, value: string) {
  if (value === 'system') target.tls = 'verify-full'
  else target.tlsFiles.ca = value
}

function tlsSetting(value: string): TlsSetting {
  if (value === 'allow') return 'prefer'
  if (value === 'true' || value === '1') return 'require'
  if (value === 'false' || value === '0') return 'disable'
  if (!TLS_SETTINGS.has(value))
    throw new Error('DATABASE_URL: sslmode must be disable, prefer, require, verify-ca or verify-full')
  return value as TlsSetting
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new Error('DATABASE_URL cannot be read: percent-encode special characters in user name and password')
  }
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator)
  return at === -1 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)]
}

/**
 * Options for Node's TLS, given the contents of the files. A root certificate turns `require` into a check against
 * that root, as libpq does; only `verify-full` looks at the host name.
 */
export function tlsOptions(
  tls: TlsSetting,
  files: { ca?: string; cert?: string; key?: string },
): false | 'prefer' | TlsOptions {
  if (tls === 'disable') return false
  const given = Object.keys(files).length > 0
  if (tls === 'prefer' && !given) return 'prefer'
  if (tls === 'verify-full') return { ...files, rejectUnauthorized: true }
  if (tls === 'verify-ca' || files.ca !== undefined) {
    return { ...files, rejectUnauthorized: true, checkServerIdentity: () => undefined }
  }
  return { ...files, rejectUnauthorized: false }
}
