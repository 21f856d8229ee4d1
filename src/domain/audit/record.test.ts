import { expect } from 'vitest'
import { createScene } from '../../../tests/support/scene.ts'
import { test } from '../../../tests/support/world.ts'
import { scopeToOrganization } from '../../db/tenant.ts'
import { inTransaction } from '../../db/transaction.ts'
import { type AuditActor, recordAudit } from './record.ts'

const ENTRY = { action: 'agent.created', targetKind: 'agent', targetId: 'support' }

test('an entry says who did what to what, from where, and is written in the order of time', async ({ world }) => {
  const { sql, organizationId, actor } = await createScene(world)
  const userId = world.unique('user')
  await sql`insert into users (id, email, name) values (${userId}, ${`${userId}@example.com`}, 'Ada')`
  await sql`insert into members (organization_id, user_id, role) values (${organizationId}, ${userId}, 'owner')`
  const who: AuditActor = {
    ...actor,
    userId,
    credentialId: 'key-1',
    origin: { ip: '192.0.2.1', userAgent: 'curl', requestId: 'req-1' },
  }
  const scoped = scopeToOrganization(sql, organizationId)
  await inTransaction(scoped, async (tx) => {
    await recordAudit(tx, who, { ...ENTRY, details: { name: 'Support' } })
    await recordAudit(tx, who, { ...ENTRY, action: 'agent.removed' })
  })
  const rows = await sql`
    select actor_kind, actor_id, user_id, action, target_kind, target_id, ip, user_agent, request_id, details
    from audit_log where organization_id = ${organizationId} order by id`
  const common = { actor_kind: 'key', actor_id: 'key-1', user_id: userId, target_kind: 'agent', target_id: 'support' }
  const from = { ip: '192.0.2.1', user_agent: 'curl', request_id: 'req-1' }
  expect([...rows]).toEqual([
    { ...common, ...from, action: 'agent.created', details: { name: 'Support' } },
    { ...common, ...from, action: 'agent.removed', details: {} },
  ])
})

test('a change that is taken back leaves no entry', async ({ world }) => {
  const { sql, organizationId, actor } = await createScene(world)
  const undone = inTransaction(sql, async (tx) => {
    await recordAudit(tx, actor, ENTRY)
    throw new Error('no')
  })
  await expect(undone).rejects.toThrow('no')
  expect(await sql`select 1 from audit_log where organization_id = ${organizationId}`).toHaveLength(0)
})

test('the name that a session token goes by is not taken for a person', async ({ world }) => {
  const { sql, organizationId, actor } = await createScene(world)
  const userId = world.unique('user')
  await sql`insert into users (id, email, name) values (${userId}, ${`${userId}@example.com`}, 'Ada')`
  await recordAudit(sql, { ...actor, kind: 'session', userId }, ENTRY)
  expect([...(await sql`select user_id from audit_log where organization_id = ${organizationId}`)]).toEqual([
    { user_id: null },
  ])
})

test('long texts are cut, large details are left out, and our own credentials never get in', async ({ world }) => {
  const { sql, organizationId, actor } = await createScene(world)
  const key = `lobu_${'a'.repeat(32)} lobuat_${'a'.repeat(32)}`
  await recordAudit(sql, actor, {
    ...ENTRY,
    details: { name: 'x'.repeat(1_000), nul: 'a\0b', half: 'a\ud800b', note: `key ${key}` },
  })
  await recordAudit(sql, actor, { ...ENTRY, details: { many: Array.from({ length: 5_000 }, (_, index) => index) } })
  const rows = await sql<{ details: Record<string, unknown> }[]>`
    select details from audit_log where organization_id = ${organizationId} order by id`
  expect(rows[0]!.details).toEqual({
    name: 'x'.repeat(300),
    nul: 'ab',
    half: 'a\ufffdb',
    note: 'key [credential] [credential]',
  })
  expect(Object.keys(rows[1]!.details)).toEqual(['tooLarge'])
})
