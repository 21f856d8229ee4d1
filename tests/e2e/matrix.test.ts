import { createHash, randomBytes } from 'node:crypto'
import { describe, expect } from 'vitest'
import { ROLE_NAMES, ROLES, type Role } from '../../src/domain/accounts/permissions.ts'
import { type Answer, type Cluster, SECRETS, test } from '../support/cluster.ts'
import { until } from '../support/gateway.ts'
import { closed, type Demand, OPERATIONS } from '../support/matrix.ts'
import { signInBySql } from '../support/oauth.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('three replicas share it')

test.override('clusterOptions', { replicas: 3, env: { SIGN_UP: 'invited' } })

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')
const random = () => randomBytes(12).toString('hex')

/** How a request says who sends it. */
interface Credential {
  token?: string | null
  cookie?: string
}

interface Place {
  slug: string
  /** Values of all that paths name, in this organization. */
  names: Record<string, string>
  conversationToken: string
}

/** An organization with one thing of each kind that a path can name; agents and users' names are the same in each. */
async function makePlace(cluster: Cluster): Promise<Place> {
  const { sql } = cluster.database
  const slug = `org-${random()}`
  await sql`insert into organizations (id, slug, name) values (${slug}, ${slug}, 'Same name')`
  await sql`insert into agents (organization_id, id, name, is_default) values (${slug}, 'assistant', 'Same', true)`
  await sql`insert into agents (organization_id, id, name) values (${slug}, 'same-agent', 'Same')`
  await sql`
    insert into organization_sign_ins (organization_id, provider_id, name, issuer, client_id)
    values (${slug}, ${`oidc-${slug}`}, 'SSO', 'https://idp.example', 'x')`
  const owner = await addPerson(cluster, slug, 'owner')
  const victim = await addPerson(cluster, slug, 'member')
  const opened = await cluster.call('POST', '/api/v1/agents', {
    token: owner.key,
    body: { agentId: 'same-agent', userId: 'same-user', thread: 'same-thread' },
  })
  const { agentId: id, token } = opened.body as { agentId: string; token: string }
  const posted = await cluster.call('POST', `/api/v1/agents/${id}/messages`, { token, body: { content: '/echo mine' } })
  await until(async () => {
    const rows = await sql`
      select 1 from runs r join conversations c on c.organization_id = r.organization_id and c.id = r.conversation_id
      where r.organization_id = ${slug} and r.state = 'completed' and c.worker_replica is not null
        and not exists (select 1 from usage_steps s where s.organization_id = ${slug})`
    return rows.length === 1
  }, 'its turn is over, noted and summed')
  const invited = await cluster.call('POST', `/api/${slug}/invitations`, { token: owner.key, body: { role: 'viewer' } })
  await cluster.call('PUT', `/api/${slug}/secrets/SAME_NAME`, { token: owner.key, body: { value: 'kept-value' } })
  return {
    slug,
    conversationToken: token,
    names: {
      ...{ org: slug, id, agentId: 'same-agent', runId: String(posted.body.runId), userId: victim.userId },
      ...{
        invitationId: (invited.body as { invitation: { id: string } }).invitation.id,
        tokenId: `key-${victim.userId}`,
      },
      ...{ name: 'SAME_NAME', provider: 'anthropic', clientId: 'lobu-cli', providerId: `oidc-${slug}` },
    },
  }
}

/** A member with all kinds of credential: an API key, a browser session, and a program that may do all they may. */
async function addPerson({ database: { sql } }: Cluster, slug: string, role: Role) {
  const person = await signInBySql(sql, { secret: SECRETS.BETTER_AUTH_SECRET })
  const [key, access] = [`lobu_${random()}`, random()]
  await sql`insert into members (organization_id, user_id, role) values (${slug}, ${person.userId}, ${role})`
  await sql`
    insert into api_keys (organization_id, id, user_id, name, token_hash, token_prefix)
    values (${slug}, ${`key-${person.userId}`}, ${person.userId}, 'test', ${sha256(key)}, ${key.slice(0, 12)})`
  await sql`
    insert into oauth_access_tokens (id, token, client_id, user_id, scopes, expires_at, created_at)
    values (${random()}, ${sha256(access)}, 'lobu-cli', ${person.userId}, ${[...ROLES[role]]}, now() + interval '1 hour', now())`
  return { ...person, key, accessToken: `lobuat_${access}` }
}

function ask(cluster: Cluster, operation: string, names: Record<string, string>, credential: Credential) {
  const [method, pattern] = operation.split(' ') as [string, string]
  const path = pattern.replaceAll(/\{(\w+)\}/g, (_, name: string) => names[name] ?? `no-${name}`)
  const { body } = OPERATIONS[operation]!
  return cluster.call(method, path, {
    token: credential.token ?? null,
    ...(body === undefined ? {} : { body }),
    headers: credential.cookie ? { cookie: credential.cookie, origin: cluster.proxy.url } : {},
  })
}

function expectRefused(answer: Answer, statuses: number[], what: string) {
  expect(statuses, `${what}: ${answer.status} ${answer.text.slice(0, 200)}`).toContain(answer.status)
  expect(answer.body.code, what).toMatch(/^[a-z_]+$/)
}

/** What could have been changed, as the database has it, in every table of organizations. */
async function fingerprint({ database: { sql } }: Cluster, slug: string): Promise<Record<string, string>> {
  const tables = await sql<{ name: string }[]>`
    select distinct tablename as name from pg_policies where policyname = 'tenant' and tablename <> 'users'
      and tablename not in ('stream_presence', 'rate_buckets')`
  const found: Record<string, string> = {}
  for (const { name } of tables) {
    const column = name === 'organizations' ? sql`id` : sql`organization_id`
    const [row] = await sql<{ sum: string | null }[]>`
      select md5(string_agg(line, '' order by line)) as sum from (
        select (to_jsonb(t) - 'last_used_at')::text as line from ${sql(name)} t where ${column} = ${slug}) x`
    found[name] = row!.sum ?? ''
  }
  return found
}

test('the matrix knows every operation of the API, and no other', async ({ cluster }) => {
  const { body } = await cluster.call('GET', '/api/docs/openapi.json', { token: null })
  const paths = Object.entries(body.paths as Record<string, Record<string, { security?: unknown[] }>>)
  const found = paths.flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { security }]) => {
      return [`${method.toUpperCase()} ${path}`, (security?.length ?? 0) > 0] as const
    }),
  )
  expect(found.map(([operation]) => operation).sort()).toEqual(Object.keys(OPERATIONS).sort())
  const open = found.filter(([, isClosed]) => !isClosed).map(([operation]) => operation)
  expect(open.map((operation) => OPERATIONS[operation]!.demand)).toEqual(open.map(() => 'nothing'))
})

describe('every closed operation', () => {
  test('refuses who has no credential, or one that is worth nothing', async ({ cluster }) => {
    const { names } = await makePlace(cluster)
    const credentials: Credential[] = [
      ...[{}, { token: random() }, { token: `lobu_${random()}` }, { token: `lobuat_${random()}` }],
      { cookie: `lobu.session_token=${random()}.${Buffer.from(random()).toString('base64')}` },
    ]
    for (const [operation] of closed) {
      for (const credential of credentials) {
        const answer = await ask(cluster, operation, names, credential)
        expectRefused(answer, [401], `${operation} with ${JSON.stringify(Object.keys(credential))}`)
        expect(answer.headers['www-authenticate'], operation).toBeDefined()
      }
    }
  })

  test('shows and changes nothing of another organization, whatever the credential', async ({ cluster }) => {
    const [victim, other] = [await makePlace(cluster), await makePlace(cluster)]
    const stranger = await addPerson(cluster, other.slug, 'owner')
    const before = await fingerprint(cluster, victim.slug)
    const credentials: [string, Credential][] = [
      ['a key', { token: stranger.key }],
      ['a browser session', { cookie: stranger.cookie }],
      ['a program', { token: stranger.accessToken }],
      ['a session token', { token: other.conversationToken }],
    ]
    // Without a name of the victim's in its path an operation is about the caller's own organization.
    const foreign = closed.filter(([operation]) => /\{(org|id|runId)\}/.test(operation))
    expect(foreign.length).toBeGreaterThan(40)
    for (const [operation] of foreign) {
      for (const [kind, credential] of credentials) {
        const answer = await ask(cluster, operation, victim.names, credential)
        expectRefused(answer, operation.includes('{org}') ? [403] : [404], `${operation} with ${kind} of another`)
        // The organization is the caller's own, the thing is the victim's.
        if (!/\{org\}\/./.test(operation) || !/\{(userId|invitationId|tokenId|providerId)\}/.test(operation)) continue
        const mixed = await ask(cluster, operation, { ...victim.names, org: other.slug }, credential)
        expectRefused(mixed, kind === 'a session token' ? [403] : [404], `${operation} with ${kind}, mixed`)
      }
    }
    expect(await fingerprint(cluster, victim.slug)).toEqual(before)
  })

  test('asks for its permission: roles without it are refused, by key, browser and program alike', async ({
    cluster,
  }) => {
    const place = await makePlace(cluster)
    const before = await fingerprint(cluster, place.slug)
    let refusals = 0
    for (const role of ROLE_NAMES) {
      const person = await addPerson(cluster, place.slug, role)
      for (const [operation, { demand }] of closed) {
        if (isAllowed(role, demand)) continue
        for (const credential of [{ token: person.key }, { cookie: person.cookie }, { token: person.accessToken }]) {
          expectRefused(await ask(cluster, operation, place.names, credential), [403], `${operation} as ${role}`)
          refusals++
        }
      }
      await removePerson(cluster, person.userId)
    }
    expect(refusals).toBeGreaterThan(100)
    expect(await fingerprint(cluster, place.slug)).toEqual(before)
  })

  test('lets a session token do what its conversation needs, and nothing else', async ({ cluster }) => {
    const place = await makePlace(cluster)
    const before = await fingerprint(cluster, place.slug)
    for (const [operation, { demand }] of closed) {
      if (demand === 'conversation') continue
      const answer = await ask(cluster, operation, place.names, { token: place.conversationToken })
      expectRefused(answer, [403], `${operation} with a session token`)
    }
    expect(await fingerprint(cluster, place.slug)).toEqual(before)
    for (const path of ['', '/history/status', '/history/session/messages']) {
      const answer = await cluster.call('GET', `/api/v1/agents/${place.names.id}${path}`, {
        token: place.conversationToken,
      })
      expect(answer.status, path).toBe(200)
    }
  })
})

function isAllowed(role: Role, demand: Demand): boolean {
  if (demand === 'person' || demand === 'member' || demand === 'nothing') return true
  const permission = demand === 'conversation' ? 'conversations:use' : demand
  return (ROLES[role] as readonly string[]).includes(permission)
}

async function removePerson({ database: { sql } }: Cluster, userId: string) {
  await sql`delete from api_keys where user_id = ${userId}`
  await sql`delete from members where user_id = ${userId}`
}
