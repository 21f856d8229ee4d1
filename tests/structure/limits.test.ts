import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { renderSettings } from '../../scripts/settings.ts'
import { ROOM } from '../../src/domain/limits/room.ts'
import { SIGN_IN_PROVIDERS_MAX } from '../../src/domain/organizations/sign-in-providers.ts'
import { SECRETS_PER_ORGANIZATION_MAX } from '../../src/domain/secrets/store.ts'
import { JSON_BYTES_MAX } from '../../src/http/body.ts'
import { errors } from '../../src/http/errors.ts'
import { MULTIPART_LIMITS } from '../../src/http/multipart.ts'
import type { ErrorCode } from '../../src/lib/errors.ts'

interface Row {
  limit: string
  fallback: string
  setting: string | undefined
  at: string
}

/** The rows of the first table of docs/limits.md. */
function readRows(): Row[] {
  const text = readFileSync(join(import.meta.dirname, '../../docs/limits.md'), 'utf8')
  const table = text.slice(text.indexOf('| limit |'), text.indexOf('\n\nWorkers fit'))
  return table
    .split('\n')
    .slice(2)
    .map((line) => line.split('|').map((cell) => cell.trim()))
    .map(([, limit = '', fallback = '', setting = '', at = '']) => {
      return { limit, fallback, setting: /`(\w+)`/.exec(setting)?.[1], at }
    })
}

/** Name and default of every setting. */
function readSettings(): Map<string, string> {
  const rows = renderSettings().rendered.matchAll(/^\| `(\w+)` \| (?:`(.*?)`)? *\|/gm)
  return new Map([...rows].map(([, name, fallback]) => [name!, fallback ?? '']))
}

/** Settings that bound something, by their names. */
const isLimit = (name: string) => /_(MAX|PER_MINUTE)$|^RUN_SECONDS_MAX$|^WORKER_MEMORY_MB$/.test(name)
/** How each code of a limit answers; waiting is told by `Retry-After` wherever it helps. */
const REFUSALS: ErrorCode[] = [
  ...(['queue_full', 'rate_limited', 'budget_exhausted', 'too_many_streams', 'saturated'] as const),
  ...(['limit_reached', 'payload_too_large', 'database_unavailable'] as const),
]

test('the table names every setting that is a limit, with its default, and no other', () => {
  const settings = readSettings()
  const named = new Set(readRows().flatMap(({ setting }) => setting ?? []))
  expect([...named].filter((name) => !settings.has(name))).toEqual([])
  expect([...settings.keys()].filter((name) => isLimit(name) && !named.has(name))).toEqual([])
  for (const { limit, fallback, setting } of readRows()) {
    const value = setting === undefined ? '' : settings.get(setting)!
    const [number = ''] = /^\d+/.exec(fallback) ?? []
    if (value === '' || value === '0' || number === '' || limit.startsWith('characters of `final')) continue
    const unit = fallback.includes('MiB') && Number(value) > 100_000 ? 1024 * 1024 : 1
    expect(Number(number) * unit, `${limit}: ${setting}`).toBe(Number(value))
  }
})

test('every code in it is one of the API, under its status; every code of a limit is in it', () => {
  const text = readRows()
    .map(({ at }) => at)
    .join('\n')
  const answers = [...text.matchAll(/(\d{3}) `(\w+)`/g)].filter(([, , code]) => code !== 'temporarily_unavailable')
  for (const [, status, code] of answers) expect(Object.keys(errors(code as ErrorCode)), code).toContain(status)
  expect(REFUSALS.filter((code) => !answers.some(([, , named]) => named === code))).toEqual([])
})

test('bounds without a setting are those of the code', () => {
  const fallbackOf = (start: string) => readRows().find(({ limit }) => limit.startsWith(start))?.fallback
  expect(fallbackOf('agents;')).toBe(`${ROOM.agents}; ${ROOM.keys}; ${ROOM.invitations}`)
  expect(fallbackOf('secrets;')).toBe(`${SECRETS_PER_ORGANIZATION_MAX}; ${SIGN_IN_PROVIDERS_MAX}`)
  expect(fallbackOf('JSON body')).toBe(`${JSON_BYTES_MAX / 1024 ** 2} MiB, in 30 s`)
  const { filesMax, fileBytesMax, totalBytesMax } = MULTIPART_LIMITS
  const mb = (bytes: number) => `${bytes / 1024 ** 2} MB`
  expect(fallbackOf('files of a message')).toBe(`${filesMax}; ${mb(fileBytesMax)}; ${mb(totalBytesMax)}`)
})
