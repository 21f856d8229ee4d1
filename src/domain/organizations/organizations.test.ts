import { describe, expect } from 'vitest'
import { makeMember, makeUser, personIn } from '../../../tests/support/people.ts'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../../tests/support/world.ts'
import type { Sql } from '../../db/client.ts'
import { scopeToOrganization } from '../../db/tenant.ts'
import { requirePerson } from '../accounts/actor.ts'
import { createApiKey } from '../accounts/api-keys.ts'
import { ROLE_NAMES, ROLES, type Role } from '../accounts/permissions.ts'
import { storeFile } from '../files/files.ts'
import { createOrganization } from './create.ts'
import { deleteOrganization } from './delete.ts'
import { getOrganization } from './get.ts'
import { listOnlyOrganization, listOrganizations } from './list.ts'
import { updateOrganization } from './update.ts'

const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => 'done',
    (error) => error.code,
  )

async function createStage(world: World) {
  const scene = await createScene(world)
  const { userId } = await makeUser(scene, world)
  const requester = requirePerson(personIn(scene, { userId, role: 'viewer' }))
  const create = async (over: { name?: string; slug?: string; single?: boolean; sql?: Sql } = {}) => {
    const { name = world.unique('Acme'), slug, single = false, sql = scene.sql } = over
    const deps = { sql, signals: scene.signals, singleOrganization: single }
    const made = await createOrganization(deps, { requester, name, slug })
    world.defer(async () => scene.sql`delete from organizations where id = ${made.id}`)
    return made
  }
  return { scene, requester, create }
}

describe('a new organization', () => {
  test('has its maker as owner and an agent that answers, and its making is on record', async ({ world }) => {
    const { scene, requester, create } = await createStage(world)
    const slug = world.unique('acme')
    const made = await create({ name: 'Acme', slug })
    expect(made).toMatchObject({ name: 'Acme', slug, id: expect.stringMatching(/^org_/) })
    expect(await listOrganizations(scene.sql, { requester, limit: 10 })).toEqual([{ ...made, role: 'owner' }])
    const agents = await scene.sql`select id, is_default from agents where organization_id = ${made.id}`
    expect([...agents]).toEqual([{ id: 'assistant', is_default: true }])
    const log = await scene.sql`select action, user_id from audit_log where organization_id = ${made.id}`
    expect([...log]).toEqual([{ action: 'organization.created', user_id: requester.userId }])
    expect(scene.signals.access).toHaveLength(1)
  })

  test('without a slug gets one like its name, and another one when that is taken', async ({ world }) => {
    const { create } = await createStage(world)
    const name = world.unique('Gärten')
    const [first, second] = [await create({ name }), await create({ name })]
    expect(first.slug).toMatch(/^ga-rten-[a-z0-9]+$/)
    expect(second.slug).toMatch(new RegExp(`^${first.slug}-[a-z0-9]{8}$`))
    expect((await create({ name: '日本' })).slug).toMatch(/^team(-[a-z0-9]{8})?$/)
    expect((await create({ name: 'Docs' })).slug).toMatch(/^docs-team(-[a-z0-9]{8})?$/)
    expect((await create({ name: 'Default' })).slug).toMatch(/^default-team(-[a-z0-9]{8})?$/)
  })

  test('cannot take a slug that is reserved or another one’s', async ({ world }) => {
    const { scene, create } = await createStage(world)
    for (const slug of ['auth', 'v1', 'organizations', 'default', scene.organizationId]) {
      expect(await codeOf(create({ slug })), slug).toBe('conflict')
    }
  })

  test('is refused where there may be only one', async ({ world }) => {
    const { create } = await createStage(world)
    expect(await codeOf(create({ single: true }))).toBe('forbidden')
  })
})

test('a credential of one organization sees that one', async ({ world }) => {
  const { scene, create, requester } = await createStage(world)
  await create()
  const actor = personIn(scene, { userId: requester.userId, role: 'member', only: [] })
  expect(await listOnlyOrganization(scene.sql, { actor })).toMatchObject([{ id: scene.organizationId, role: 'member' }])
  const session = { ...actor, kind: 'session' as const, role: null }
  expect(await codeOf(getOrganization(scene.sql, { actor: session }))).toBe('forbidden')
})

describe('name and slug', () => {
  test('are changed by those who may, with the old ones on record', async ({ world }) => {
    const { scene } = await createStage(world)
    const deps = { sql: scopeToOrganization(scene.sql, scene.organizationId), signals: scene.signals }
    for (const role of ROLE_NAMES) {
      const { actor } = await makeMember(scene, world, role)
      const allowed = ROLES[role].includes('organization:write') ? 'done' : 'forbidden'
      expect(await codeOf(updateOrganization(deps, { actor, fields: { name: `By ${role}` } })), role).toBe(allowed)
    }
    const slug = world.unique('renamed')
    const changed = await updateOrganization(deps, { actor: scene.actor, fields: { slug } })
    expect(changed).toMatchObject({ slug, name: 'By admin' })
    expect(await getOrganization(deps.sql, { actor: scene.actor })).toEqual(changed)
    const [entry] = await scene.sql`
      select details from audit_log where organization_id = ${scene.organizationId} order by id desc limit 1`
    const before = { slug: scene.organizationId, name: 'By admin' }
    expect(entry).toEqual({ details: { before, after: { slug, name: 'By admin' } } })
  })

  test('never become a reserved word or those of another', async ({ world }) => {
    const [{ scene }, other] = [await createStage(world), await createStage(world)]
    const deps = { sql: scopeToOrganization(scene.sql, scene.organizationId), signals: scene.signals }
    for (const slug of ['auth', 'default', other.scene.organizationId]) {
      expect(await codeOf(updateOrganization(deps, { actor: scene.actor, fields: { slug } })), slug).toBe('conflict')
    }
    expect((await getOrganization(deps.sql, { actor: scene.actor })).slug).toBe(scene.organizationId)
  })
})

/** A row in each table that can have one, as far as verbs make them, and the loose ones by hand. */
async function fill(scene: Scene, world: World) {
  const { sql, organizationId } = scene
  const owner = await makeMember(scene, world, 'owner')
  await createApiKey(sql, { organizationId, userId: owner.userId, name: 'k' })
  const [idle, busy, waiting] = [await scene.open(), await scene.open(), await scene.open()]
  const done = await scene.start(idle)
  await scene.say(done, 'words')
  await scene.end(done, { status: 'failed', deadLetter: true })
  const running = await scene.start(busy, { webhookUrl: 'https://example.com/hook' })
  await scene.say(running, 'half')
  await scene.post(busy)
  await scene.post(waiting)
  const content = (async function* () {
    yield Buffer.from('text')
  })()
  await storeFile(sql, { organizationId, conversationId: idle, name: 'a.txt', mediaType: 'text/plain' }, content)
  await scene.follow(idle)
  await sql`
    insert into audit_log (organization_id, id, actor_kind, actor_id, action, target_kind, target_id)
    values (${organizationId}, gen_random_uuid(), 'key', 'k', 'a.b', 'a', 'b')`
  await sql`
    insert into outbox (organization_id, id, kind, target, payload)
    values (${organizationId}, gen_random_uuid(), 'webhook', 'https://example.com', '{}')`
  return { owner, idle, busy, running }
}

/** Tables that still hold something of an organization, with how much. */
async function leftOf({ sql, organizationId }: Scene) {
  const tables = await sql<{ name: string }[]>`
    select table_name as name from information_schema.columns
    where column_name = 'organization_id' and table_schema = current_schema() order by 1`
  const left: Record<string, number> = {}
  for (const { name } of tables) {
    const rows = await sql`select 1 from ${sql(name)} where organization_id = ${organizationId}`
    if (rows.length > 0) left[name] = rows.length
  }
  return left
}

describe('a deleted organization', () => {
  requirePostgres('statements meet on connections of their own')

  const remove = (scene: Scene, world: World, actor = scene.actor) =>
    deleteOrganization({ sql: scene.sql, signals: scene.signals, log: world.log }, { actor })

  test('leaves nothing, its runs end as cancelled and its streams close', async ({ world }) => {
    const scene = await createScene(world)
    const { idle, busy, running, owner } = await fill(scene, world)
    const before = await leftOf(scene)
    expect(Object.keys(before)).toEqual(
      expect.arrayContaining([
        'audit_log',
        'conversations',
        'dead_letters',
        'file_chunks',
        'event_log',
        'outbox',
        'runs',
        'stream_presence',
        'thread_response',
      ]),
    )
    await remove(scene, world, owner.actor)

    expect(await leftOf(scene)).toEqual({})
    expect(await scene.sql`select 1 from organizations where id = ${scene.organizationId}`).toHaveLength(0)
    expect(scene.signals.ended).toContain(running.id)
    expect(scene.signals.conversationsEnded).toEqual(expect.arrayContaining([idle, busy]))
    const published = scene.signals.publishedEvents.map(({ events }) => events).join('\n')
    expect(published).toContain('"status":"cancelled"')
    expect(scene.signals.access.length).toBeGreaterThan(0)
    expect(await scene.sql`select 1 from users where id = ${owner.userId}`).toHaveLength(1)
    expect(await codeOf(remove(scene, world))).toBe('not_found')
  })

  test('takes nothing of another one along', async ({ world }) => {
    const [scene, other] = [await createScene(world), await createScene(world)]
    await fill(scene, world)
    await fill(other, world)
    const before = await leftOf(other)
    await remove(scene, world)
    expect(await leftOf(other)).toEqual(before)
  })

  test('can have more conversations than one transaction removes', async ({ world }) => {
    const scene = await createScene(world)
    for (let made = 0; made < 120; made++) await scene.open()
    await remove(scene, world)
    expect(await leftOf(scene)).toEqual({})
    expect(new Set(scene.signals.conversationsEnded).size).toBe(120)
  })

  test('takes no message any more that came in between', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const holder = await world.replica()
    const held = await scene.hold(
      holder.sql,
      (tx) => tx`select 1 from conversations where organization_id = ${scene.organizationId} for update`,
    )
    const removing = remove(scene, world)
    await scene.lockWaiters(1)
    const posting = codeOf(scene.post(conversation))
    await scene.lockWaiters(2)
    await held.release()
    await removing
    expect(['done', 'not_found']).toContain(await posting)
    expect(await leftOf(scene)).toEqual({})
  })

  test('is deleted by its owners alone', async ({ world }) => {
    const scene = await createScene(world)
    for (const role of ROLE_NAMES.filter((name: Role) => !ROLES[name].includes('organization:delete' as never))) {
      const { actor } = await makeMember(scene, world, role)
      expect(await codeOf(remove(scene, world, actor)), role).toBe('forbidden')
    }
    const own = { ...scene.actor, kind: 'session' as const }
    expect(await codeOf(remove(scene, world, own))).toBe('forbidden')
    await remove(scene, world)
  })
})

test('every table of an organization goes with it by itself, or is named where it is deleted', async ({ world }) => {
  const { sql } = await world.replica()
  const loose = await sql<{ name: string }[]>`
    with recursive bound as (
      select 'organizations'::regclass::oid as id
      union
      select c.conrelid from pg_constraint c join bound b on b.id = c.confrelid
      where c.contype = 'f' and c.confdeltype = 'c'
    )
    select c.relname as name from pg_class c
    join pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped
    where c.relkind in ('r', 'p') and c.relnamespace = current_schema()::regnamespace and c.oid not in (select id from bound)
    order by 1`
  expect(loose.map(({ name }) => name)).toEqual([
    ...['dead_letters', 'event_log', 'outbox', 'stream_presence', 'thread_response', 'usage_steps'],
  ])
})
