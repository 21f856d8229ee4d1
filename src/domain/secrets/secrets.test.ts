import { describe, expect } from 'vitest'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../../tests/support/world.ts'
import { scopeToOrganization } from '../../db/tenant.ts'
import { ROLES } from '../accounts/permissions.ts'
import { createAgent, deleteAgent } from '../agents/agents.ts'
import { listSecrets, removeSecret, setSecret } from './secrets.ts'
import { readSecrets, SECRETS_PER_ORGANIZATION_MAX } from './store.ts'
import { envelopeOf } from './test-keys.ts'

requirePostgres('changes meet on connections of their own')

const envelope = envelopeOf()
const AGENT = { name: 'Helper', description: '', model: null, instructions: '' }

/** The verbs as a request calls them: through the organization's own view of the database. */
function stageOf(scene: Scene, sql = scopeToOrganization(scene.sql, scene.organizationId)) {
  const deps = { sql, signals: scene.signals, envelope }
  const { actor, organizationId } = scene
  return {
    set: (name: string, value: string, agentId?: string) =>
      setSecret(deps, { actor, agentId, name, value, allowedHosts: [] }),
    remove: (name: string, agentId?: string) => removeSecret(deps, { actor, agentId, name }),
    list: (more: { agentId?: string; limit?: number; after?: string } = {}) =>
      listSecrets(sql, { actor, agentId: undefined, limit: 100, ...more }),
    async values(agentId = '') {
      const rows = await readSecrets(sql, envelope, { organizationId, agentId, kind: 'secret', names: null })
      return Object.fromEntries(rows.map((row) => [`${row.agentId}/${row.name}`, row.value]))
    },
  }
}

async function createStage(world: World) {
  const scene = await createScene(world)
  return { scene, ...stageOf(scene) }
}

describe('a secret', () => {
  test('is set, changed, listed by name without its value, and removed', async ({ world }) => {
    const { set, list, remove, values, scene } = await createStage(world)
    expect(await set('TOKEN', 'canary-one')).toMatchObject({ created: true, secret: { name: 'TOKEN', kind: 'secret' } })
    expect(await set('TOKEN', 'canary-two')).toMatchObject({ created: false })
    expect(await values()).toEqual({ '/TOKEN': 'canary-two' })
    const listed = await list()
    expect(listed).toEqual([{ name: 'TOKEN', kind: 'secret', allowedHosts: [], updatedAt: expect.any(Date) }])
    await remove('TOKEN')
    await expect(remove('TOKEN')).rejects.toMatchObject({ code: 'not_found' })
    expect(await list()).toEqual([])
    expect(scene.signals.access).toHaveLength(3)
  })

  test('is stored sealed, and opens in no other row', async ({ world }) => {
    const { set, values, scene } = await createStage(world)
    await set('ONE', 'canary-one')
    await set('TWO', 'canary-two')
    const stored = await scene.sql<{ text: string }[]>`
      select secrets::text as text from secrets where organization_id = ${scene.organizationId}`
    expect(JSON.stringify(stored)).not.toContain('canary')
    await scene.sql`
      update secrets set sealed = (select sealed from secrets where organization_id = ${scene.organizationId} and name = 'ONE')
      where organization_id = ${scene.organizationId} and name = 'TWO'`
    expect(await values()).toEqual({ '/ONE': 'canary-one', '/TWO': undefined })
  })

  test('is in the audit log when it is made, changed or removed, without its value', async ({ world }) => {
    const { set, remove, scene } = await createStage(world)
    await set('TOKEN', 'canary-one', scene.agentId)
    await set('TOKEN', 'canary-two', scene.agentId)
    await remove('TOKEN', scene.agentId)
    const entries = await scene.sql<{ action: string; targetId: string; text: string }[]>`
      select action, target_id as "targetId", audit_log::text as text from audit_log
      where organization_id = ${scene.organizationId} order by id`
    expect(entries.map(({ action, targetId }) => `${action} ${targetId}`)).toEqual([
      'secret.created TOKEN',
      'secret.changed TOKEN',
      'secret.removed TOKEN',
    ])
    for (const { text } of entries) {
      expect(text).toContain(scene.agentId)
      expect(text).not.toContain('canary')
    }
  })

  test('of another organization is not there', async ({ world }) => {
    const [own, other] = [await createStage(world), await createStage(world)]
    await other.set('TOKEN', 'theirs')
    expect(await own.list()).toEqual([])
    await expect(own.remove('TOKEN')).rejects.toMatchObject({ code: 'not_found' })
    await own.set('TOKEN', 'ours')
    expect([await own.values(), await other.values()]).toEqual([{ '/TOKEN': 'ours' }, { '/TOKEN': 'theirs' }])
    await expect(own.set('TOKEN', 'x', 'no-such-agent')).rejects.toMatchObject({ code: 'not_found' })
    await expect(own.list({ agentId: 'no-such-agent' })).rejects.toMatchObject({ code: 'not_found' })
  })

  test('takes the permission, which members do not have', async ({ world }) => {
    const { scene } = await createStage(world)
    const member = stageOf({ ...scene, actor: { ...scene.actor, permissions: new Set(ROLES.member) } })
    for (const attempt of [() => member.list(), () => member.set('TOKEN', 'x'), () => member.remove('TOKEN')]) {
      await expect(attempt()).rejects.toMatchObject({ code: 'forbidden' })
    }
  })
})

test('many are listed a page at a time, by kind and name', async ({ world }) => {
  const { set, list } = await createStage(world)
  for (const name of ['C', 'A', 'B']) await set(name, 'x')
  const first = await list({ limit: 2 })
  expect(first.map(({ name }) => name)).toEqual(['A', 'B'])
  expect((await list({ limit: 2, after: 'secret:B' })).map(({ name }) => name)).toEqual(['C'])
})

test('an agent that is made again under its id finds no secret of the one before', async ({ world }) => {
  const { set, list, values, scene } = await createStage(world)
  const agentId = 'helper'
  const make = () => createAgent(scene.sql, { actor: scene.actor, agentId, fields: AGENT })
  await make()
  await set('TOKEN', 'of the first', agentId)
  await set('SHARED', 'of all')
  await deleteAgent(scene, { actor: scene.actor, agentId })
  await make()
  expect(await list({ agentId })).toEqual([])
  expect(await values(agentId)).toEqual({ '/SHARED': 'of all' })
})

test('a secret that comes while its agent is removed is refused or removed with it', async ({ world }) => {
  const { scene } = await createStage(world)
  const agentId = 'helper'
  await createAgent(scene.sql, { actor: scene.actor, agentId, fields: AGENT })
  const [holder, setter, remover] = [await world.replica(), await world.replica(), await world.replica()]
  const locked = await scene.hold(holder.sql, (tx) => tx`select 1 from agents where id = ${agentId} for update`)
  const outcomes = Promise.allSettled([
    deleteAgent({ ...scene, sql: remover.sql }, { actor: scene.actor, agentId }),
    stageOf(scene, setter.sql).set('TOKEN', 'x', agentId),
  ])
  await scene.lockWaiters(2)
  await locked.release()
  await outcomes
  const left = await scene.sql`
    select 1 from secrets where organization_id = ${scene.organizationId} and agent_id = ${agentId}`
  expect(left).toHaveLength(0)
})

test('an organization has a bound, which callers at once do not pass', async ({ world }) => {
  const { scene, set, list } = await createStage(world)
  await scene.sql`
    insert into secrets (organization_id, kind, name, sealed, key_id)
    select ${scene.organizationId}, 'secret', 'N' || n, 'x', ${envelope.keyId}
    from generate_series(1, ${SECRETS_PER_ORGANIZATION_MAX - 2}) n`
  const replicas = await Promise.all(Array.from({ length: 4 }, () => world.replica()))
  const outcomes = await Promise.allSettled(replicas.map(({ sql }, at) => stageOf(scene, sql).set(`EXTRA_${at}`, 'x')))
  expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(2)
  for (const one of outcomes) {
    if (one.status === 'rejected') expect(one.reason).toMatchObject({ code: 'limit_reached' })
  }
  expect(await list({ limit: 1000 })).toHaveLength(SECRETS_PER_ORGANIZATION_MAX)
  expect(await set('N1', 'another value')).toMatchObject({ created: false })
})
