import type { Sql } from '../../db/client.ts'
import type { Envelope } from '../../lib/envelope.ts'
import { AppError } from '../../lib/errors.ts'
import type { Redactions } from '../../lib/redactions.ts'
import type { KeyOwner } from './provider-keys.ts'
import { type OpenedSecret, readSecrets } from './store.ts'

const REFERENCE = /\$\{secret:([^}]*)\}/g
/** Settings are not nested deeper; what is, is refused. */
const DEPTH_MAX = 10

/** How a secret may be called. */
export const SECRET_NAME = /^[A-Z][A-Z0-9_]{0,63}$/

export interface ReferenceDeps {
  /** The database as the owner's organization sees it. */
  sql: Sql
  envelope: Envelope
  redactions: Redactions
}

export interface ReferenceUse {
  owner: KeyOwner
  /** Where the value is sent. */
  url: string
  /**
   * Who wrote the settings. Who may change an agent is trusted with the secrets of its organization; somebody who may
   * only open a conversation could send them to a server of their own.
   */
  writtenBy: 'agent' | 'caller'
}

/** The names in all `${secret:NAME}` of a JSON value, each once, also those that are no good names. */
export function findSecretReferences(value: unknown): string[] {
  const names = new Set<string>()
  mapTexts(value, (text) => {
    for (const [, name] of text.matchAll(REFERENCE)) names.add(name!)
    return text
  })
  return [...names]
}

/**
 * The same JSON value with each `${secret:NAME}` in its texts replaced: the agent's secret of that name, else the
 * organization's. For the moment of use, inside the gateway: the result is stored nowhere and goes to `use.url` alone.
 * @throws AppError 'invalid_request' naming the references that cannot be used, and why. Never a value.
 */
export async function resolveSecretReferences<T>(deps: ReferenceDeps, value: T, use: ReferenceUse): Promise<T> {
  const names = findSecretReferences(value)
  if (names.length === 0) return value
  const values = await readReferenced(deps, names, use)
  return mapTexts(value, (text) => text.replaceAll(REFERENCE, (_, name: string) => values.get(name)!)) as T
}

/** What is wrong with the references in settings that are about to be stored: sentences for the person who wrote them. */
export async function checkSecretReferences(deps: ReferenceDeps, value: unknown, use: ReferenceUse): Promise<string[]> {
  const names = findSecretReferences(value)
  if (names.length === 0) return []
  return (await readAll(deps, names, use)).flatMap((found) => (found.fault ? [found.fault] : []))
}

async function readReferenced(deps: ReferenceDeps, names: string[], use: ReferenceUse): Promise<Map<string, string>> {
  const found = await readAll(deps, names, use)
  const faults = found.flatMap(({ fault }) => (fault ? [fault] : []))
  if (faults.length > 0) throw new AppError('invalid_request', faults.join(' '))
  const values = new Map(found.map(({ name, value }) => [name, value!]))
  for (const value of values.values()) deps.redactions.add(value)
  return values
}

interface Found {
  name: string
  value?: string
  fault?: string
}

async function readAll({ sql, envelope }: ReferenceDeps, names: string[], use: ReferenceUse): Promise<Found[]> {
  const { organizationId, agentId } = use.owner
  const usable = names.filter((name) => SECRET_NAME.test(name))
  const rows = await readSecrets(sql, envelope, { organizationId, agentId, kind: 'secret', names: usable })
  return names.map((name) => {
    // The agent's own, else the organization's.
    const row = rows.find((one) => one.name === name && one.agentId !== '') ?? rows.find((one) => one.name === name)
    const fault = faultOf(name, row, use)
    return fault === undefined ? { name, value: row!.value! } : { name, fault }
  })
}

function faultOf(name: string, row: OpenedSecret | undefined, use: ReferenceUse): string | undefined {
  const shown = `\${secret:${name.slice(0, 64)}}`
  if (!SECRET_NAME.test(name)) return `${shown} is no name of a secret.`
  if (!row) return `${shown} is not set for this agent or organization.`
  if (!maySendTo(row.allowedHosts, use)) return `${shown} may not be sent to ${hostOf(use.url)}: see its allowed hosts.`
  if (row.value === undefined) return `${shown} cannot be opened; set it again.`
  return undefined
}

/** Without a list of hosts a secret goes where the agent's own settings send it, and nowhere else. */
function maySendTo(allowedHosts: string[], { url, writtenBy }: ReferenceUse): boolean {
  if (allowedHosts.length === 0) return writtenBy === 'agent'
  const target = parseUrl(url)
  if (!target || (target.protocol !== 'https:' && target.protocol !== 'http:')) return false
  return allowedHosts.some((entry) =>
    entry.startsWith('.') ? target.hostname.endsWith(entry) : entry === target.host || entry === target.hostname,
  )
}

function hostOf(url: string): string {
  return parseUrl(url)?.host ?? 'this address'
}

function parseUrl(url: string): URL | undefined {
  return URL.canParse(url) ? new URL(url) : undefined
}

function mapTexts(value: unknown, map: (text: string) => string, depth = 0): unknown {
  if (typeof value === 'string') return map(value)
  if (typeof value !== 'object' || value === null) return value
  if (depth >= DEPTH_MAX) throw new AppError('invalid_request', `Settings may be nested ${DEPTH_MAX} levels deep`)
  if (Array.isArray(value)) return value.map((inner) => mapTexts(inner, map, depth + 1))
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, mapTexts(inner, map, depth + 1)]))
}
