import { describe, expect } from 'vitest'
import { makeMember, personIn } from '../../../tests/support/people.ts'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { test, type World } from '../../../tests/support/world.ts'
import { scopeToOrganization } from '../../db/tenant.ts'
import { inTransaction } from '../../db/transaction.ts'
import { ROLE_NAMES, ROLES } from '../accounts/permissions.ts'
import { exportAudit } from './export.ts'
import { type AuditFilter, listAudit } from './list.ts'
import { pruneAudit } from './prune.ts'
import { recordAudit } from './record.ts'

async function createStage(world: World) {
  const scene = await createScene(world)
  const owner = await makeMember(scene, world, 'owner')
  const sql = scopeToOrganization(scene.sql, scene.organizationId)
  const record = (action: string, targetId = 'thing', details: Record<string, unknown> = {}) =>
    recordAudit(sql, owner.actor, { action, targetKind: action.split('.')[0]!, targetId, details })
  const list = async (filter: AuditFilter & { limit?: number; after?: string } = {}) =>
    listAudit(sql, { actor: owner.actor, limit: 100, ...filter })
  const actions = async (filter: AuditFilter = {}) => (await list(filter)).map(({ action }) => action)
  return { scene, owner, sql, record, list, actions }
}

const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => 'done',
    (error) => error.code,
  )

test('the log is read from the newest entry down, with who it was, a page at a time', async ({ world }) => {
  const { owner, record, list } = await createStage(world)
  for (const action of ['key.created', 'key.rotated', 'agent.created']) await record(action)
  const [first, ...rest] = await list()
  expect(first).toMatchObject({
    ...{ action: 'agent.created', targetKind: 'agent', targetId: 'thing', actorKind: 'user' },
    ...{ actorId: owner.actor.credentialId, userId: owner.userId, userEmail: owner.email, ip: '192.0.2.7' },
  })
  expect(await list({ limit: 1, after: first!.id })).toEqual(rest.slice(0, 1))
  expect(await list({ after: rest[1]!.id })).toEqual([])
  expect(await codeOf(list({ after: 'nonsense' }))).toBe('invalid_request')
})

test('it can be asked for an action, an actor, a target and a time', async ({ world }) => {
  const { scene, owner, record, actions } = await createStage(world)
  await record('key.created', 'key-1')
  await record('key.revoked', 'key-2')
  await recordAudit(
    scene.sql,
    { ...scene.actor, credentialId: 'key-9' },
    { action: 'agent.created', targetKind: 'agent', targetId: 'a' },
  )
  expect(await actions({ action: 'key.' })).toEqual(['key.revoked', 'key.created'])
  expect(await actions({ action: 'key.created' })).toEqual(['key.created'])
  expect(await actions({ action: 'key' })).toEqual([])
  expect(await actions({ by: owner.userId })).toEqual(['key.revoked', 'key.created'])
  expect(await actions({ by: 'key-9' })).toEqual(['agent.created'])
  expect(await actions({ target: 'key-2' })).toEqual(['key.revoked'])
  const hour = 3_600_000
  expect(await actions({ from: new Date(Date.now() - hour), to: new Date(Date.now() + hour) })).toHaveLength(3)
  expect(await actions({ from: new Date(Date.now() + hour) })).toEqual([])
  expect(await actions({ to: new Date(Date.now() - hour) })).toEqual([])
})

test('owners alone read and export it', async ({ world }) => {
  const { scene, sql } = await createStage(world)
  for (const role of ROLE_NAMES) {
    const { actor } = await makeMember(scene, world, role)
    const expected = ROLES[role].includes('audit:read' as never) ? 'done' : 'forbidden'
    expect(await codeOf(listAudit(sql, { actor, limit: 1 })), role).toBe(expected)
    expect(await codeOf(exportAudit(sql, { actor, filter: {} })), role).toBe(expected)
    expect(role === 'owner').toBe(expected === 'done')
  }
  const narrow = personIn(scene, { userId: 'x', role: 'owner', only: ['members:read'] })
  expect(await codeOf(listAudit(sql, { actor: narrow, limit: 1 }))).toBe('forbidden')
})

test('another organization’s log is not there', async ({ world }) => {
  const [here, there] = [await createStage(world), await createStage(world)]
  await there.record('key.created')
  for (const sql of [here.sql, here.scene.sql]) {
    expect(await listAudit(sql, { actor: here.owner.actor, limit: 10 })).toEqual([])
  }
})

test('the export is CSV that no spreadsheet runs, whole however long it is, and itself on record', async ({
  world,
}) => {
  const { scene, owner, sql, record, actions } = await createStage(world)
  await record('agent.created', '=cmd()', { name: 'a "quoted", name' })
  await scene.sql`
    insert into audit_log (organization_id, id, actor_kind, actor_id, action, target_kind, target_id)
    select ${scene.organizationId}, gen_random_uuid(), 'key', 'k', 'bulk.entry', 'x', n::text from generate_series(1, 1200) n`
  const pieces: string[] = []
  for await (const piece of await exportAudit(sql, { actor: owner.actor, filter: {} })) pieces.push(piece)
  expect(pieces.length).toBeGreaterThan(3)
  const lines = pieces.join('').split('\r\n')
  expect(lines[0]).toBe(
    'at,action,target_kind,target_id,actor_kind,actor_id,user_id,user_email,ip,user_agent,request_id,details,id',
  )
  expect(lines).toHaveLength(1 + 1202 + 1)
  expect(lines.find((line) => line.includes('agent.created'))).toMatch(
    /agent,'=cmd\(\),user,.*"\{""name"":""a \\""quoted\\"", name""\}"/,
  )
  expect(await actions({ action: 'audit.' })).toEqual(['audit.exported'])
})

describe('nobody rewrites the log, not even the owner of the tables', () => {
  for (const [what, statement] of Object.entries({
    update: `update audit_log set action = 'nothing' where organization_id = $1`,
    'taking out the person together with something else': `update audit_log set user_id = null, ip = null where organization_id = $1`,
    delete: 'delete from audit_log where organization_id = $1',
  })) {
    test(what, async ({ world }) => {
      const { scene, record, actions } = await createStage(world)
      await record('key.created')
      await expect(scene.sql.unsafe(statement, [scene.organizationId])).rejects.toMatchObject({ code: '23000' })
      expect(await actions()).toEqual(['key.created'])
    })
  }

  test('truncate', async ({ world }) => {
    const { scene } = await createStage(world)
    await expect(scene.sql.unsafe('truncate audit_log')).rejects.toMatchObject({ code: '23000' })
  })

  test('a person that is removed is taken out, and an organization takes its log along', async ({ world }) => {
    const { scene, owner, record } = await createStage(world)
    await record('key.created')
    await scene.sql`delete from users where id = ${owner.userId}`
    const rows = () => scene.sql`select user_id, action from audit_log where organization_id = ${scene.organizationId}`
    expect([...(await rows())]).toEqual([{ user_id: null, action: 'key.created' }])
    await scene.sql`delete from organizations where id = ${scene.organizationId}`
    expect(await rows()).toHaveLength(0)
  })
})

describe('retention', () => {
  /** Entries of so many days ago, past everything that keeps them as they are. */
  async function age({ sql, organizationId }: Scene, days: number[]) {
    for (const day of days) {
      await sql`
        insert into audit_log (organization_id, id, at, actor_kind, actor_id, action, target_kind, target_id)
        select ${organizationId}, (rpad(lpad(to_hex((extract(epoch from t) * 1000)::bigint), 12, '0'), 16, '0')
            || substr(md5(random()::text), 1, 16))::uuid, t, 'key', 'k', ${`day.${day}`}, 'x', 'x'
        from (select now() - ${day} * interval '1 day' as t) x`
    }
  }

  const prune = ({ sql }: Scene, bounds: { keepDays: number; rowsMax: number }) =>
    inTransaction(sql, (tx) => pruneAudit(tx, bounds))

  test('removes what is older than the setting, or than the organization’s own', async ({ world }) => {
    const [usual, short, long] = [await createStage(world), await createStage(world), await createStage(world)]
    await short.scene
      .sql`insert into organization_limits (organization_id, audit_keep_days) values (${short.scene.organizationId}, 10)`
    await long.scene
      .sql`insert into organization_limits (organization_id, audit_keep_days) values (${long.scene.organizationId}, 1000)`
    for (const { scene } of [usual, short, long]) await age(scene, [5, 50, 500, 2000])
    expect(await prune(usual.scene, { keepDays: 365, rowsMax: 100 })).toBe(2 + 3 + 1)
    expect(await prune(usual.scene, { keepDays: 365, rowsMax: 100 })).toBe(0)
    expect(await usual.actions()).toEqual(['day.5', 'day.50'])
    expect(await short.actions()).toEqual(['day.5'])
    expect(await long.actions()).toEqual(['day.5', 'day.50', 'day.500'])
  })

  test('goes in batches, the oldest first', async ({ world }) => {
    const { scene, actions } = await createStage(world)
    await age(scene, [400, 600, 500])
    expect(await prune(scene, { keepDays: 365, rowsMax: 2 })).toBe(2)
    expect(await actions()).toEqual(['day.400'])
    expect(await prune(scene, { keepDays: 365, rowsMax: 2 })).toBe(1)
  })
})
