import { describe, expect } from 'vitest'
import { createScene, type Scene } from '../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../tests/support/world.ts'
import type { Sql } from './client.ts'
import { scopeToOrganization } from './tenant.ts'
import { ensureTenantRole, explainMissingTenantRole, grantTenantRole } from './tenant-role.ts'
import { inTransaction } from './transaction.ts'

/** Two organizations with a message each, and the database as the first one sees it. */
async function createStage(world: World) {
  const [own, other] = [await createScene(world), await createScene(world)]
  for (const scene of [own, other]) await scene.post(await scene.open())
  return { own, other, scoped: scopeToOrganization(own.sql, own.organizationId), sql: own.sql }
}

const organizationsIn = async (sql: Sql, table: string) => {
  const rows = await sql<{ id: string }[]>`select distinct organization_id as id from ${sql(table)}`
  return rows.map(({ id }) => id)
}

describe('the database as one organization sees it', () => {
  test('has no rows of others, whatever is asked', async ({ world }) => {
    const { own, scoped, sql } = await createStage(world)
    for (const table of ['agents', 'conversations', 'messages', 'runs']) {
      expect(await organizationsIn(scoped, table), table).toEqual([own.organizationId])
      expect((await organizationsIn(sql, table)).length, table).toBeGreaterThan(1)
    }
    const inside = await inTransaction(scoped, (tx) => organizationsIn(tx, 'messages'))
    expect(inside).toEqual([own.organizationId])
    expect(await scoped`select id from organizations`).toEqual([{ id: own.organizationId }])
  })

  test('takes no row for others, and changes and removes none of theirs', async ({ world }) => {
    const { other, scoped, sql } = await createStage(world)
    const insert = scoped`
      insert into agents (organization_id, id, name) values (${other.organizationId}, 'planted', 'Planted')`
    await expect(insert).rejects.toMatchObject({ code: '42501' })
    await scoped`update agents set name = 'changed' where organization_id = ${other.organizationId}`
    await scoped`delete from conversations where organization_id = ${other.organizationId}`
    expect(await namesOf(sql, other)).toEqual(['Assistant'])
    expect(await organizationsIn(sql, 'conversations')).toContain(other.organizationId)
  })

  test('cannot be left by a statement that is cut short or fails', async ({ world }) => {
    const { own, scoped, sql } = await createStage(world)
    await expect(scoped`select 1 / 0`).rejects.toMatchObject({ code: '22012' })
    await expect(inTransaction(scoped, async () => Promise.reject(new Error('no')))).rejects.toThrow('no')
    expect(await organizationsIn(scoped, 'agents')).toEqual([own.organizationId])
    // The pool's connections are the gateway's own again.
    const seen = await Promise.all(Array.from({ length: 20 }, () => organizationsIn(sql, 'agents')))
    expect(seen.every((ids) => ids.length > 1)).toBe(true)
  })

  test('takes fragments, values and helpers as the pool does', async ({ world }) => {
    const { own, scoped } = await createStage(world)
    const condition = scoped`organization_id = ${own.organizationId} and id = any(${['assistant']}::text[])`
    expect(await scoped`select ${scoped(['id', 'name'])} from agents where ${condition}`).toEqual([
      { id: 'assistant', name: 'Assistant' },
    ])
    const [row] = await scoped<{ given: unknown }[]>`select ${scoped.json({ a: [1, 'x'] })}::jsonb as given`
    expect(row!.given).toEqual({ a: [1, 'x'] })
  })

  test('shows nothing of how people sign in, and no other people', async ({ world }) => {
    const { own, other, scoped, sql } = await createStage(world)
    for (const scene of [own, other]) await addMember(sql, scene)
    for (const table of [
      'user_sessions',
      'user_accounts',
      'oauth_access_tokens',
      'setup_links',
      'encryption_canaries',
    ]) {
      await expect(scoped`select * from ${scoped(table)}`, table).rejects.toMatchObject({ code: '42501' })
    }
    expect(await scoped`select id from users`).toEqual([{ id: `${own.organizationId}-user` }])
  })

  test('lets nobody rewrite what was done', async ({ world }) => {
    const { own, scoped } = await createStage(world)
    await scoped`
      insert into audit_log (organization_id, id, actor_kind, actor_id, action, target_kind, target_id)
      values (${own.organizationId}, gen_random_uuid(), 'key', 'key_1', 'agent.created', 'agent', 'a')`
    await expect(scoped`update audit_log set action = 'nothing'`).rejects.toMatchObject({ code: '42501' })
    await expect(scoped`delete from audit_log`).rejects.toMatchObject({ code: '42501' })
  })
})

test('every table that belongs to organizations is bound by the policy', async ({ world }) => {
  const { sql } = await world.replica()
  const unbound = await sql<{ name: string }[]>`
    select distinct c.relname as name
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id' and not a.attisdropped
    where c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace
      and not (c.relrowsecurity and exists (select 1 from pg_policies p where p.tablename = c.relname and p.policyname = 'tenant'))`
  expect(unbound).toEqual([])
})

describe('the role that is bound', () => {
  requirePostgres('users with different rights')

  test('is there after a migration, and making it again changes nothing', async ({ world }) => {
    const { sql } = await world.replica()
    expect(await explainMissingTenantRole(sql)).toBeNull()
    await Promise.all([1, 2, 3].map(() => ensureTenantRole(sql)))
    expect(await explainMissingTenantRole(sql)).toBeNull()
  })

  test('is missed by a user that may not become it, with the way out', async ({ world }) => {
    const { sql } = await world.replica()
    const user = world.unique('plain').replaceAll('-', '_')
    await sql.unsafe(`create role ${user}`)
    world.defer(async () => sql.unsafe(`drop role ${user}`))
    const asUser = <T>(work: (tx: Sql) => Promise<T>) =>
      inTransaction(sql, async (tx) => {
        await tx.unsafe(`set local role ${user}`)
        return work(tx)
      })
    await asUser(grantTenantRole)
    expect(await asUser(explainMissingTenantRole)).toContain(`grant lobu_tenant to "${user}"`)
  })
})

async function namesOf(sql: Sql, scene: Scene) {
  const rows = await sql<{ name: string }[]>`select name from agents where organization_id = ${scene.organizationId}`
  return rows.map(({ name }) => name)
}

async function addMember(sql: Sql, scene: Scene) {
  const id = `${scene.organizationId}-user`
  await sql`insert into users (id, email, name) values (${id}, ${id}, 'Someone')`
  await sql`insert into members (organization_id, user_id, role) values (${scene.organizationId}, ${id}, 'member')`
}
