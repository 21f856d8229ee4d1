import type { Config } from '../config.ts'
import type { Sql } from '../db/client.ts'
import { type Finding, fail, ok, warn } from './finding.ts'

const REQUEST_MS_MAX = 10_000
const BODY_CHARS_MAX = 65_536
const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/
const NAME = 'public url'

/** Whether people reach this installation by `PUBLIC_WEB_URL`: asks for its health, as they would. */
export async function checkPublicUrl({ http, mode }: Config, sql: Sql | null): Promise<Finding> {
  const { publicUrlFault } = http
  const publicUrl = withoutSecrets(http.publicUrl)
  if (publicUrlFault !== null) {
    const [detail] = publicUrlFault.split(':')
    return fail(
      NAME,
      publicUrlFault,
      detail!.endsWith('not set') ? 'set it to the https address that people use' : 'set it to an https address',
    )
  }
  const local = LOOPBACK.test(new URL(publicUrl).hostname)
  const answer = await ask(`${http.publicUrl}/health`)
  if ('fault' in answer) {
    const detail = `${publicUrl} does not answer from here: ${answer.fault}`
    if (local && mode !== 'production') return ok(NAME, `${publicUrl}; no gateway runs there now`)
    return fail(NAME, detail, 'start a gateway; check DNS, ingress and certificate')
  }
  if (answer.location !== undefined)
    return fail(
      NAME,
      `${publicUrl} leads elsewhere, to ${answer.location}`,
      'set PUBLIC_WEB_URL to the address that people end up at',
    )
  if (answer.body.service !== 'lobu')
    return fail(
      NAME,
      `what answers at ${publicUrl} (${answer.status}) is not a Lobu gateway`,
      'let the ingress or proxy pass all paths on to the gateway',
    )
  if (sql !== null && (await belongsElsewhere(http.publicUrl, sql)))
    return warn(
      NAME,
      `another installation of Lobu answers at ${publicUrl}`,
      'check the ingress and DATABASE_URL: they should belong together',
    )
  const note = local && mode === 'production' ? '; only this machine can use it' : ''
  return ok(NAME, `${publicUrl} leads to a gateway, release ${answer.body.version}${note}`)
}

/** Every replica names itself in its readiness, and has a row in its database. */
async function belongsElsewhere(publicUrl: string, sql: Sql): Promise<boolean> {
  const answer = await ask(`${publicUrl}/health/ready`)
  if ('fault' in answer || typeof answer.body.replica !== 'string' || answer.body.ready !== true) return false
  const [table] = await sql<{ there: boolean }[]>`select to_regclass('replicas') is not null as there`
  if (!table!.there) return true
  const rows = await sql`select 1 from replicas where id = ${answer.body.replica}`
  return rows.length === 0
}

type Answer = { status: number; location?: string; body: Record<string, unknown> } | { fault: string }

async function ask(url: string): Promise<Answer> {
  try {
    const response = await fetch(url, { redirect: 'manual', signal: AbortSignal.timeout(REQUEST_MS_MAX) })
    const text = (await response.text()).slice(0, BODY_CHARS_MAX)
    const location = response.status >= 300 && response.status < 400 ? response.headers.get('location') : null
    return {
      status: response.status,
      body: parse(text),
      ...(location === null ? {} : { location: withoutSecrets(new URL(location, url).href) }),
    }
  } catch (error) {
    return { fault: reason(error) }
  }
}

/** An address as it may be shown: whoever redirects may put a ticket into the query. */
function withoutSecrets(address: string): string {
  const { origin, pathname } = new URL(address)
  return `${origin}${pathname.replace(/\/+$/, '')}`
}

function parse(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
  } catch {
    return {}
  }
}

function reason(error: unknown): string {
  const cause = (error as { cause?: { code?: unknown; errors?: { code?: unknown }[] } }).cause
  const code = cause?.code ?? cause?.errors?.[0]?.code
  if (typeof code === 'string') return code
  return (error as Error).name === 'TimeoutError' ? `no answer within ${REQUEST_MS_MAX / 1000} s` : 'the request failed'
}
