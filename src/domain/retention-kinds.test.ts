import { pino } from 'pino'
import { describe, expect } from 'vitest'
import { createScene, type Scene, until } from '../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../tests/support/world.ts'
import type { Sql } from '../db/client.ts'
import { removeIdleConversations } from './conversations/remove-idle.ts'
import { storeFile } from './files/files.ts'
import { createRetention } from './retention.ts'

requirePostgres('two replicas remove at the same time, each on connections of its own')

const DAY_MS = 86_400_000
const KEEP = {
  ...{ logKeepMs: DAY_MS, deadLettersKeepMs: 30 * DAY_MS, webhooksKeepMs: DAY_MS, auditKeepDays: 365 },
  ...{ conversationsKeepMs: 100 * DAY_MS, usageKeepDays: 1096, signInKeepMs: DAY_MS },
  ...{ invitationsKeepMs: 30 * DAY_MS, keysKeepMs: 90 * DAY_MS },
}
/** More than two replicas remove in one batch each. */
const MANY = 1_200

/** Two replicas that remove what is old; `faults` are the warnings that they gave. */
async function startReplicas(world: World): Promise<{ faults: string[] }> {
  const faults: string[] = []
  const log = pino({ level: 'warn' }, { write: (line: string) => void faults.push(line) })
  for (const { sql } of [await world.replica(), await world.replica()]) {
    for (const loop of createRetention({ sql, log }, { ...KEEP, everyMs: 60_000 })) await world.run(loop)
  }
  return { faults }
}

interface Kind {
  /** Rows of a scene that stand for `count` things, so many days old. */
  make(sql: Sql, scene: Scene, args: { count: number; days: number; name: string }): Promise<unknown>
  /** Which of the names are there. */
  left(sql: Sql, scene: Scene): Promise<{ name: string }[]>
  oldDays: number
  freshDays: number
}

const DAYS_AGO = (sql: Sql, days: number) => sql`now() - ${days} * interval '1 day'`

const user = async ({ sql, organizationId }: Scene) => {
  const id = `user-of-${organizationId}`
  await sql`insert into users (id, email, name) values (${id}, ${`${id}@example.com`}, 'n') on conflict do nothing`
  return id
}

const KINDS: Record<string, Kind> = {
  'dead letters': {
    ...{ oldDays: 31, freshDays: 29 },
    make: (sql, { organizationId }, { count, days, name }) => sql`
      insert into dead_letters (organization_id, id, queue, payload, error, attempts, created_at)
      select ${organizationId}, gen_random_uuid(), ${name}, '{}', 'e', 1, ${DAYS_AGO(sql, days)} from generate_series(1, ${count})`,
    left: (sql, { organizationId }) =>
      sql`select distinct queue as name from dead_letters where organization_id = ${organizationId}`,
  },
  'entries of the audit log': {
    ...{ oldDays: 400, freshDays: 300 },
    make: (sql, { organizationId }, { count, days, name }) => sql`
      insert into audit_log (organization_id, id, at, actor_kind, actor_id, action, target_kind, target_id)
      select ${organizationId}, (rpad(lpad(to_hex((extract(epoch from t) * 1000)::bigint), 12, '0'), 16, '0')
          || substr(md5(n::text || ${name}), 1, 16))::uuid, t, 'key', 'k', ${name}, 'x', 'x'
      from (select ${DAYS_AGO(sql, days)} as t) x, generate_series(1, ${count}) n`,
    left: (sql, { organizationId }) =>
      sql`select distinct action as name from audit_log where organization_id = ${organizationId}`,
  },
  'days of usage': {
    ...{ oldDays: 1100, freshDays: 1000 },
    make: (sql, { organizationId }, { count, days, name }) => sql`
      insert into usage_days (organization_id, day, agent_id, model, user_id)
      select ${organizationId}, (now() at time zone 'utc')::date - ${days}::int, ${name}, 'm', n::text
      from generate_series(1, ${count}) n`,
    left: (sql, { organizationId }) =>
      sql`select distinct agent_id as name from usage_days where organization_id = ${organizationId}`,
  },
  'browser sessions': {
    ...{ oldDays: 2, freshDays: 0.5 },
    make: async (sql, scene, { count, days, name }) => sql`
      insert into user_sessions (id, token, user_id, expires_at, user_agent)
      select ${name + scene.organizationId} || n, ${name + scene.organizationId} || n, ${await user(scene)},
        ${DAYS_AGO(sql, days)}, ${name}
      from generate_series(1, ${count}) n`,
    left: async (sql, scene) =>
      sql`select distinct user_agent as name from user_sessions where user_id = ${await user(scene)}`,
  },
  'links and codes of sign-in': {
    ...{ oldDays: 2, freshDays: 0.5 },
    make: (sql, { organizationId }, { count, days, name }) => sql`
      insert into verifications (id, identifier, value, expires_at)
      select ${name + organizationId} || n, ${organizationId}, ${name}, ${DAYS_AGO(sql, days)} from generate_series(1, ${count}) n`,
    left: (sql, { organizationId }) =>
      sql`select distinct value as name from verifications where identifier = ${organizationId}`,
  },
  'counts of tries to sign in': {
    ...{ oldDays: 2, freshDays: 0.5 },
    make: (sql, { organizationId }, { count, days, name }) => sql`
      insert into sign_in_rate_limits (id, key, count, last_request)
      select ${name + organizationId} || n, ${name} || '|' || ${organizationId} || n, 1, ${Date.now() - days * DAY_MS}
      from generate_series(1, ${count}) n`,
    left: (sql, { organizationId }) => sql`
      select distinct split_part(key, '|', 1) as name from sign_in_rate_limits where key like ${`%|${organizationId}%`}`,
  },
  'setup links': {
    ...{ oldDays: 2, freshDays: 0.5 },
    make: (sql, { organizationId }, { count, days, name }) => sql`
      insert into setup_links (token_hash, expires_at)
      select ${name} || '|' || ${organizationId} || n, ${DAYS_AGO(sql, days)} from generate_series(1, ${count}) n`,
    left: (sql, { organizationId }) => sql`
      select distinct split_part(token_hash, '|', 1) as name from setup_links where token_hash like ${`%|${organizationId}%`}`,
  },
  'device codes': {
    ...{ oldDays: 2, freshDays: 0.5 },
    make: (sql, { organizationId }, { count, days, name }) => sql`
      insert into device_codes (id, device_code, user_code, expires_at, status, scope)
      select ${name + organizationId} || n, ${name + organizationId} || n, ${organizationId}, ${DAYS_AGO(sql, days)}, 'pending', ${name}
      from generate_series(1, ${count}) n`,
    left: (sql, { organizationId }) =>
      sql`select distinct scope as name from device_codes where user_code = ${organizationId}`,
  },
  'OAuth tokens': {
    ...{ oldDays: 2, freshDays: 0.5 },
    make: async (sql, scene, { count, days, name }) => {
      const userId = await user(scene)
      await sql`
        insert into oauth_refresh_tokens (id, token, client_id, user_id, scopes, expires_at, created_at)
        select 'r' || ${name + userId} || n, ${name + userId} || n, 'lobu-cli', ${userId}, array[${name}], ${DAYS_AGO(sql, days)}, now()
        from generate_series(1, ${count}) n`
      await sql`
        insert into oauth_access_tokens (id, token, client_id, user_id, refresh_id, scopes, expires_at, created_at)
        select ${name + userId} || n, ${name + userId} || n, 'lobu-cli', ${userId}, 'r' || ${name + userId} || n, array[${name}],
          ${DAYS_AGO(sql, days)}, now()
        from generate_series(1, ${count}) n`
    },
    left: async (sql, scene) => {
      const userId = await user(scene)
      return sql`
        select distinct scopes[1] as name from (
          select scopes from oauth_refresh_tokens where user_id = ${userId}
          union all select scopes from oauth_access_tokens where user_id = ${userId}) t`
    },
  },
  'expired invitations': {
    ...{ oldDays: 31, freshDays: 29 },
    make: (sql, { organizationId }, { count, days, name }) => sql`
      insert into invitations (organization_id, id, email, role, token_hash, expires_at)
      select ${organizationId}, ${name} || n, ${name}, 'viewer', ${name + organizationId} || n, ${DAYS_AGO(sql, days)}
      from generate_series(1, ${count}) n`,
    left: (sql, { organizationId }) =>
      sql`select distinct email as name from invitations where organization_id = ${organizationId}`,
  },
  'invitations that were accepted or withdrawn': {
    ...{ oldDays: 31, freshDays: 29 },
    make: (sql, { organizationId }, { count, days, name }) => sql`
      insert into invitations (organization_id, id, email, role, token_hash, expires_at, accepted_at, revoked_at)
      select ${organizationId}, ${name} || n, ${name}, 'viewer', ${name + organizationId} || n, now() + interval '1 day',
        case when n % 2 = 0 then ${DAYS_AGO(sql, days)} end, case when n % 2 = 1 then ${DAYS_AGO(sql, days)} end
      from generate_series(1, ${count}) n`,
    left: (sql, { organizationId }) =>
      sql`select distinct email as name from invitations where organization_id = ${organizationId}`,
  },
  'API keys that were revoked or have expired': {
    ...{ oldDays: 91, freshDays: 89 },
    make: (sql, { organizationId }, { count, days, name }) => sql`
      insert into api_keys (organization_id, id, name, token_hash, token_prefix, revoked_at, expires_at)
      select ${organizationId}, ${name + organizationId} || n, ${name}, ${name + organizationId} || n, 'lobu_',
        case when n % 2 = 0 then ${DAYS_AGO(sql, days)} end, case when n % 2 = 1 then ${DAYS_AGO(sql, days)} end
      from generate_series(1, ${count}) n`,
    left: (sql, { organizationId }) =>
      sql`select distinct name from api_keys where organization_id = ${organizationId}`,
  },
  'buckets of rates': {
    ...{ oldDays: 2, freshDays: 0.5 },
    make: (sql, { organizationId }, { count, days, name }) => sql`
      insert into rate_buckets (organization_id, subject, tokens, refilled_at)
      select ${organizationId}, ${name} || ':' || n, 1, ${DAYS_AGO(sql, days)} from generate_series(1, ${count}) n`,
    left: (sql, { organizationId }) =>
      sql`select distinct split_part(subject, ':', 1) as name from rate_buckets where organization_id = ${organizationId}`,
  },
}

describe('two replicas remove, and leave what is younger:', () => {
  test.for(Object.keys(KINDS))('%s', async (name, { world }) => {
    const kind = KINDS[name]!
    const scene = await createScene(world)
    await kind.make(scene.sql, scene, { count: MANY, days: kind.oldDays, name: 'old' })
    await kind.make(scene.sql, scene, { count: 3, days: kind.freshDays, name: 'fresh' })
    const { faults } = await startReplicas(world)
    await until(async () => expect([...(await kind.left(scene.sql, scene))]).toEqual([{ name: 'fresh' }]))
    expect(faults).toEqual([])
  })
})

test('a key that works stays, however old it is', async ({ world }) => {
  const scene = await createScene(world)
  const { sql, organizationId } = scene
  await sql`
    insert into api_keys (organization_id, id, name, token_hash, token_prefix, created_at)
    values (${organizationId}, 'kept', 'kept', ${organizationId}, 'lobu_', ${DAYS_AGO(sql, 4000)})`
  await KINDS['API keys that were revoked or have expired']!.make(sql, scene, { count: 1, days: 91, name: 'old' })
  await startReplicas(world)
  await until(async () =>
    expect([...(await sql`select id from api_keys where organization_id = ${organizationId}`)]).toEqual([
      { id: 'kept' },
    ]),
  )
})

describe('a webhook that is owed for too long', () => {
  const owe = (sql: Sql, { organizationId }: Scene, args: { count: number; days: number; ready?: boolean }) => sql`
    insert into outbox (organization_id, id, kind, target, payload, attempt, ready, due_at, created_at)
    select ${organizationId}, gen_random_uuid(), 'webhook', 'https://receiver.example/hook', jsonb_build_object('n', n), 2,
      ${args.ready ?? true}, now() + interval '1 hour', ${DAYS_AGO(sql, args.days)}
    from generate_series(1, ${args.count}) n`
  const count = async (sql: Sql, { organizationId }: Scene, table: 'outbox' | 'dead_letters') => {
    const rows = await sql`select 1 from ${sql(table)} where organization_id = ${organizationId}`
    return rows.length
  }

  test('becomes a dead letter that can be replayed, once; one that is being made or is younger stays', async ({
    world,
  }) => {
    const scene = await createScene(world)
    const { sql, organizationId } = scene
    await owe(sql, scene, { count: MANY, days: 2 })
    await owe(sql, scene, { count: 2, days: 0.5 })
    await owe(sql, scene, { count: 3, days: 2, ready: false })
    const { faults } = await startReplicas(world)
    await until(async () => expect(await count(sql, scene, 'outbox')).toBe(5))
    expect(await count(sql, scene, 'dead_letters')).toBe(MANY)
    const [letter] = await sql`
      select queue, attempts, error, payload from dead_letters where organization_id = ${organizationId} limit 1`
    expect(letter).toMatchObject({ queue: 'webhook', attempts: 2, error: 'was owed for too long' })
    expect(letter!.payload).toMatchObject({
      target: 'https://receiver.example/hook',
      payload: { n: expect.any(Number) },
    })
    const said = faults.map((line) => JSON.parse(line))
    expect(new Set(said.map(({ msg }) => msg))).toEqual(
      new Set(['webhook calls were owed for too long, and are dead letters now']),
    )
    expect(said.reduce((sum, { count }) => sum + count, 0)).toBe(MANY)
  })
})

describe('conversations in which nothing was said for long', () => {
  const age = ({ sql, organizationId }: Scene, ids: string[], days = 101) => sql`
    update conversations set last_activity_at = ${DAYS_AGO(sql, days)}
    where organization_id = ${organizationId} and id = any(${ids}::text[])`
  const idsOf = async ({ sql, organizationId }: Scene) => {
    const rows = await sql<{ id: string }[]>`select id from conversations where organization_id = ${organizationId}`
    return rows.map(({ id }) => id).sort()
  }
  async function answered(scene: Scene) {
    const id = await scene.open()
    const run = await scene.start(id)
    await scene.say(run, 'words')
    await scene.end(run)
    return id
  }

  test('go with all that belongs to them; those that are younger or unfinished stay', async ({ world }) => {
    const scene = await createScene(world)
    const { sql, organizationId } = scene
    const old = await Promise.all(Array.from({ length: 12 }, () => answered(scene)))
    const place = { organizationId, conversationId: old[0]!, name: 'a', mediaType: 'text/plain' }
    for (let n = 0; n < 45; n++) await storeFile(sql, place, (async function* () {})())
    await sql`update files set message_id = 'm' where organization_id = ${organizationId}`
    const [young, unfinished] = [await answered(scene), await scene.open()]
    await scene.post(unfinished)
    await age(scene, [...old, unfinished])
    await age(scene, [young], 99)
    const { faults } = await startReplicas(world)

    await until(async () => expect(await idsOf(scene)).toEqual([young, unfinished].sort()))
    for (const table of ['messages', 'runs', 'event_log', 'files', 'thread_response']) {
      const rows = await sql`
        select 1 from ${sql(table)} where organization_id = ${organizationId} and conversation_id = any(${old}::text[])`
      expect(rows, table).toHaveLength(0)
    }
    expect(await scene.events(young)).toHaveLength(2)
    expect(faults).toEqual([])
  })

  test('are left while somebody holds them, and the others are not kept waiting', async ({ world }) => {
    const scene = await createScene(world)
    const [held, free] = [await answered(scene), await answered(scene)]
    await age(scene, [held, free])
    const { organizationId } = scene
    const open = await scene.hold(
      (await world.replica()).sql,
      (tx) =>
        tx`select 1 from conversations where organization_id = ${organizationId} and id = ${held} for no key update`,
    )
    const pass = () =>
      removeIdleConversations(scene.sql, {
        ...{ keepMs: 100 * DAY_MS, after: { organizationId, id: '' }, conversationsMax: 5, filesMax: 20, rowsMax: 500 },
      })
    expect((await pass()).removed).toBe(1)
    expect(await idsOf(scene)).toEqual([held])
    await open.release()
    expect((await pass()).removed).toBe(1)
    expect(await idsOf(scene)).toEqual([])
  })

  test('go over several batches when they are large, and nobody writes to them meanwhile', async ({ world }) => {
    const scene = await createScene(world)
    const { sql, organizationId } = scene
    const id = await scene.open()
    for (let turn = 0; turn < 8; turn++) {
      const run = await scene.start(id)
      await scene.say(run, 'words')
      await scene.end(run)
    }
    await age(scene, [id])
    const left = async () => {
      const counts = ['messages', 'runs', 'event_log', 'thread_response'].map(async (table) => {
        const [row] = await sql<{ n: number }[]>`
          select count(*)::int as n from ${sql(table)} where organization_id = ${organizationId} and conversation_id = ${id}`
        return row!.n
      })
      return (await Promise.all(counts)).reduce((sum, n) => sum + n)
    }
    let rows = await left()
    expect(rows).toBeGreaterThan(20)
    for (let more = true; more; ) {
      const pass = await removeIdleConversations(sql, {
        ...{ keepMs: 100 * DAY_MS, after: { organizationId, id: '' }, conversationsMax: 5, filesMax: 20, rowsMax: 6 },
      })
      const now = await left()
      expect(rows - now, 'a batch keeps to its bound').toBeLessThanOrEqual(6)
      rows = now
      more = pass.more
      if (more) await expect(scene.post(id)).rejects.toMatchObject({ code: 'not_found' })
    }
    expect(rows).toBe(0)
    expect(await idsOf(scene)).toEqual([])
  })

  test('leave none of their events behind, also where somebody held one of them for a moment', async ({ world }) => {
    const scene = await createScene(world)
    const { sql, organizationId } = scene
    const id = await answered(scene)
    await age(scene, [id])
    const held = await scene.hold(
      (await world.replica()).sql,
      (tx) =>
        tx`select 1 from event_log where organization_id = ${organizationId} and conversation_id = ${id} for update`,
    )
    const passing = removeIdleConversations(sql, {
      ...{ keepMs: 100 * DAY_MS, after: { organizationId, id: '' }, conversationsMax: 5, filesMax: 20, rowsMax: 500 },
    })
    // It has come to the conversation's end when its runs are gone, and either waits there or is done.
    await until(async () => expect(await sql`select 1 from runs where conversation_id = ${id}`).toHaveLength(0))
    await held.release()
    expect((await passing).removed).toBe(1)
    expect(await sql`select 1 from event_log where conversation_id = ${id}`).toHaveLength(0)
  })

  test('stay for ever without the setting', async ({ world }) => {
    const scene = await createScene(world)
    const names = (conversationsKeepMs: number | null) =>
      createRetention({ sql: scene.sql, log: world.log }, { ...KEEP, conversationsKeepMs }).map(({ name }) => name)
    expect(names(null)).not.toContain('retention: conversations')
    expect(names(DAY_MS)).toContain('retention: conversations')
  })
})

test('a batch that would have to wait for somebody gives up, and shows by its age', async ({ world }) => {
  const scene = await createScene(world)
  const holder = await world.replica()
  const locked = await scene.hold(holder.sql, (tx) => tx`lock table invitations in access exclusive mode`)
  const faults: string[] = []
  const log = pino({ level: 'warn' }, { write: (line: string) => void faults.push(line) })
  const loops = createRetention({ sql: scene.sql, log }, { ...KEEP, everyMs: 60_000 })
  await Promise.all(loops.map(world.run))
  await until(() => expect(faults.length).toBeGreaterThan(0))
  expect(new Set(faults.map((line) => JSON.parse(line).loop))).toEqual(new Set(['retention: invitations']))
  await locked.release()
  const loop = loops.find(({ name }) => name === 'retention: invitations')!
  await until(() => expect(loop.ageMs()).toBeLessThan(1_000))
})
