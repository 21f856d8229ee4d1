/** What it costs to know who asks: an API key or a browser's cookie, looked up or remembered, against better-auth's own look-up. */
import { createHmac } from 'node:crypto'
import { openDatabase } from '../src/db/client.ts'
import { createAuthenticator } from '../src/domain/accounts/authenticate.ts'
import { createPersonLookup, createSessionCookies, findPerson } from '../src/domain/accounts/browser-session.ts'
import { createSessionTokens } from '../src/domain/accounts/session-token.ts'
import { COOKIE_PREFIX, createBetterAuth } from '../src/domain/sign-in/better-auth.ts'
import { log, median, ROUNDS, withDatabase } from './support.ts'
import type { Row } from './table.ts'

const SECRET = 'a secret of the measurement that is long enough'
const PUBLIC_URL = 'http://localhost:8787'
const CALLS = 500

export async function benchAccounts(): Promise<Row[]> {
  return withDatabase(async (url) => {
    const database = await openDatabase({ url, poolMax: 4, dataDir: null, log })
    const { sql, orm } = database
    await sql`insert into organizations (id, slug, name) values ('org', 'org', 'Org')`
    await sql`insert into users (id, email, name) values ('ada', 'ada@example.com', 'Ada')`
    await sql`insert into members (organization_id, user_id, role) values ('org', 'ada', 'owner')`
    const token = 'a-session-of-the-measurement-123'
    await sql`
      insert into user_sessions (id, token, user_id, expires_at) values ('one', ${token}, 'ada', now() + interval '7 days')`
    const signature = createHmac('sha256', SECRET).update(token).digest('base64')
    const cookie = `${COOKIE_PREFIX}.session_token=${encodeURIComponent(`${token}.${signature}`)}`

    const cookies = createSessionCookies({ secret: SECRET, publicUrl: PUBLIC_URL, prefix: COOKIE_PREFIX })
    const people = createPersonLookup({ sql, cookies })
    const authenticator = createAuthenticator({ sql, tokens: createSessionTokens(SECRET), people })
    const auth = createBetterAuth({ orm }, { publicUrl: PUBLIC_URL, secret: SECRET })
    const ways = {
      remembered: () => authenticator.authenticate({ authorization: undefined, cookie, organizationSlug: undefined }),
      lookedUp: () => findPerson(sql, cookies.read(cookie) ?? ''),
      betterAuth: () => auth.api.getSession({ headers: new Headers({ cookie }) }),
    }
    const found: Record<keyof typeof ways, { cpu: number[]; wall: number[] }> = {
      remembered: { cpu: [], wall: [] },
      lookedUp: { cpu: [], wall: [] },
      betterAuth: { cpu: [], wall: [] },
    }
    for (const way of Object.values(ways)) if (!(await way())) throw new Error('nobody was found')
    for (let round = 0; round < ROUNDS; round++) {
      for (const name of Object.keys(ways) as (keyof typeof ways)[]) {
        const { cpu, wall } = await cost(ways[name])
        found[name].cpu.push(cpu)
        found[name].wall.push(wall)
      }
    }
    await database.close()
    const peer = (kind: 'cpu' | 'wall') => ({ name: 'better-auth getSession', value: median(found.betterAuth[kind]) })
    const row = (name: string, ours: number, kind: 'cpu' | 'wall'): Row => ({
      name,
      ours,
      peer: peer(kind),
      unit: 'ms',
    })
    return [
      row('who asks by cookie, remembered (CPU)', median(found.remembered.cpu), 'cpu'),
      row('who asks by cookie, looked up (CPU)', median(found.lookedUp.cpu), 'cpu'),
      row('who asks by cookie, looked up (wall)', median(found.lookedUp.wall), 'wall'),
    ]
  })
}

/** Milliseconds of this process's CPU and of the clock, for one call after the other. */
async function cost(call: () => Promise<unknown>): Promise<{ cpu: number; wall: number }> {
  const [cpuAt, startedAt] = [process.cpuUsage(), performance.now()]
  for (let index = 0; index < CALLS; index++) await call()
  const { user, system } = process.cpuUsage(cpuAt)
  return { cpu: (user + system) / 1000 / CALLS, wall: (performance.now() - startedAt) / CALLS }
}
