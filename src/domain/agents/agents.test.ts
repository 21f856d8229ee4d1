import { describe, expect } from 'vitest'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import type { Actor } from '../accounts/actor.ts'
import { type AgentFields, createAgent, deleteAgent, getAgent, listAgents, updateAgent } from './agents.ts'

requirePostgres('changes meet on connections of their own')

const FIELDS: AgentFields = { name: 'Helper', description: 'Helps', model: 'demo/demo', instructions: 'Be kind.' }

function create(scene: Scene, agentId: string, fields = FIELDS) {
  return createAgent(scene.sql, { actor: scene.actor, agentId, fields })
}

describe('an agent', () => {
  test('is made, read, changed and removed', async ({ world }) => {
    const scene = await createScene(world)
    const { agent, created } = await create(scene, 'helper')
    expect(created).toBe(true)
    expect(agent).toMatchObject({ agentId: 'helper', ...FIELDS, isDefault: false, lastUsedAt: null })

    const key = { actor: scene.actor, agentId: 'helper' }
    const changed = await updateAgent(scene.sql, { ...key, fields: { model: null, name: 'New' } })
    expect(changed).toMatchObject({ ...FIELDS, name: 'New', model: null })
    expect(await getAgent(scene.sql, key)).toEqual(changed)
    expect(changed.updatedAt.getTime()).toBeGreaterThan(agent.updatedAt.getTime())
    await deleteAgent(scene, key)
    await expect(getAgent(scene.sql, key)).rejects.toMatchObject({ code: 'not_found' })
    await expect(deleteAgent(scene, key)).rejects.toMatchObject({ code: 'not_found' })
    await expect(updateAgent(scene.sql, { ...key, fields: {} })).rejects.toMatchObject({ code: 'not_found' })
  })

  test('is on record when it is made, changed and removed, without what its instructions say', async ({ world }) => {
    const scene = await createScene(world)
    await create(scene, 'helper')
    await create(scene, 'helper')
    const key = { actor: scene.actor, agentId: 'helper' }
    await updateAgent(scene.sql, { ...key, fields: { instructions: 'Be rude.' } })
    await deleteAgent(scene, key)
    await expect(deleteAgent(scene, key)).rejects.toMatchObject({ code: 'not_found' })
    const log = await scene.sql`
      select action, target_id, details from audit_log where organization_id = ${scene.organizationId} order by id`
    expect([...log]).toEqual([
      { action: 'agent.created', target_id: 'helper', details: { name: 'Helper', model: 'demo/demo' } },
      { action: 'agent.updated', target_id: 'helper', details: { fields: ['instructions'] } },
      { action: 'agent.removed', target_id: 'helper', details: {} },
    ])
  })

  test('that is made again is the same, and another one under its id is a conflict', async ({ world }) => {
    const scene = await createScene(world)
    await create(scene, 'helper')
    expect(await create(scene, 'helper')).toMatchObject({ created: false, agent: { agentId: 'helper' } })
    const other = create(scene, 'helper', { ...FIELDS, instructions: 'Be rude.' })
    await expect(other).rejects.toMatchObject({ code: 'conflict' })
  })

  test('keeps both of two changes that meet', async ({ world }) => {
    const scene = await createScene(world)
    await create(scene, 'helper')
    const key = { actor: scene.actor, agentId: 'helper' }
    const [holder, one, two] = await Promise.all([world.replica(), world.replica(), world.replica()])
    const locked = await scene.hold(holder.sql, (tx) => tx`select 1 from agents where id = 'helper' for update`)

    const changes = [
      updateAgent(one.sql, { ...key, fields: { name: 'New' } }),
      updateAgent(two.sql, { ...key, fields: { instructions: 'Be new.' } }),
    ]
    await scene.lockWaiters(2)
    await locked.release()
    await Promise.all(changes)
    expect(await getAgent(scene.sql, key)).toMatchObject({ ...FIELDS, name: 'New', instructions: 'Be new.' })
  })

  test('is listed by its id, a page at a time', async ({ world }) => {
    const scene = await createScene(world)
    for (const id of ['ccc', 'bbb', 'aaa']) await create(scene, id)
    const list = async (after?: string) =>
      (await listAgents(scene.sql, { actor: scene.actor, limit: 2, after })).map((agent) => agent.agentId)

    expect(await list()).toEqual(['aaa', 'assistant'])
    expect(await list('assistant')).toEqual(['bbb', 'ccc'])
    expect(await list('ccc')).toEqual([])
  })
})

describe('an agent stays', () => {
  test('when it is the default one', async ({ world }) => {
    const scene = await createScene(world)
    const removing = deleteAgent(scene, { actor: scene.actor, agentId: scene.agentId })
    await expect(removing).rejects.toMatchObject({ code: 'conflict' })
  })

  test('while it answers, and goes with its conversations afterwards', async ({ world }) => {
    const scene = await createScene(world)
    await create(scene, 'helper')
    const run = await scene.start(await scene.open({ agentId: 'helper' }))
    await scene.say(run, 'words')
    const remove = () => deleteAgent(scene, { actor: scene.actor, agentId: 'helper' })

    await expect(remove()).rejects.toMatchObject({ code: 'conflict' })
    await scene.end(run)
    await scene.follow(run.conversationId)
    await remove()
    expect(scene.signals.conversationsEnded).toEqual([run.conversationId])
    expect(await scene.stateOf(run.id)).toBeUndefined()
    expect(await scene.events(run.conversationId), 'events that nobody will ever prune').toEqual([])
  })

  test('when a message is accepted at that very moment', async ({ world }) => {
    const scene = await createScene(world)
    await create(scene, 'helper')
    const conversation = await scene.open({ agentId: 'helper' })
    const [poster, remover] = await Promise.all([world.replica(), world.replica()])
    const posting = await scene.hold(
      poster.sql,
      (tx) => tx`update conversations set open_runs = 1 where id = ${conversation}`,
    )
    const removing = deleteAgent({ ...scene, sql: remover.sql }, { actor: scene.actor, agentId: 'helper' }).catch(
      (error: unknown) => error,
    )
    await scene.lockWaiters(1)
    await posting.release()

    expect(await removing).toMatchObject({ code: 'conflict' })
    expect((await getAgent(scene.sql, { actor: scene.actor, agentId: 'helper' })).agentId).toBe('helper')
  })
})

describe('tenancy', () => {
  test('two organizations have an agent of the same id, and neither reaches that of the other', async ({ world }) => {
    const [mine, theirs] = [await createScene(world), await createScene(world)]
    await create(mine, 'helper')
    await create(theirs, 'helper', { ...FIELDS, name: 'Theirs' })
    await create(theirs, 'other')

    const key = { actor: mine.actor, agentId: 'helper' }
    await updateAgent(mine.sql, { ...key, fields: { name: 'Mine' } })
    await deleteAgent(mine, key)
    expect(await getAgent(theirs.sql, { actor: theirs.actor, agentId: 'helper' })).toMatchObject({ name: 'Theirs' })

    const foreign = { actor: mine.actor, agentId: 'other' }
    await expect(getAgent(mine.sql, foreign)).rejects.toMatchObject({ code: 'not_found' })
    await expect(updateAgent(mine.sql, { ...foreign, fields: {} })).rejects.toMatchObject({ code: 'not_found' })
    await expect(deleteAgent(mine, foreign)).rejects.toMatchObject({ code: 'not_found' })
    const ids = (await listAgents(mine.sql, { actor: mine.actor, limit: 100 })).map((agent) => agent.agentId)
    expect(ids).toEqual(['assistant'])
  })

  test('a session token manages no agents', async ({ world }) => {
    const scene = await createScene(world)
    const actor: Actor = { ...scene.actor, kind: 'session', conversationId: await scene.open() }
    const key = { actor, agentId: scene.agentId }
    const tries = [
      () => listAgents(scene.sql, { actor, limit: 1 }),
      () => getAgent(scene.sql, key),
      () => createAgent(scene.sql, { ...key, fields: FIELDS }),
      () => updateAgent(scene.sql, { ...key, fields: {} }),
      () => deleteAgent(scene, key),
    ]
    for (const attempt of tries) await expect(attempt()).rejects.toMatchObject({ code: 'forbidden' })
  })
})
