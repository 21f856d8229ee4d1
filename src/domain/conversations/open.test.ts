import { describe, expect } from 'vitest'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../../tests/support/world.ts'
import { createEnvelope } from '../../lib/envelope.ts'
import type { Actor } from '../accounts/actor.ts'
import { readConfidentialSettings } from './confidential.ts'
import { endConversation } from './end.ts'
import { getConversation } from './get.ts'
import { openConversation } from './open.ts'

requirePostgres('callers open conversations at the same time')

const PLACE = { forceNew: false, thread: 'thread-1', userId: 'someone' }

async function rowsOf(scene: Scene) {
  return scene.sql`select id from conversations where organization_id = ${scene.organizationId}`
}

test('the same agent, user and thread find the same conversation, others a new one', async ({ world }) => {
  const scene = await createScene(world)
  const id = await scene.open(PLACE)

  expect(await scene.open(PLACE)).toBe(id)
  expect(await scene.open({ ...PLACE, thread: 'thread-2' })).not.toBe(id)
  expect(await scene.open({ ...PLACE, userId: 'someone else' })).not.toBe(id)
  await scene.sql`insert into agents (organization_id, id, name) values (${scene.organizationId}, 'other', 'Other')`
  expect(await scene.open({ ...PLACE, agentId: 'other' })).not.toBe(id)
})

test('many callers at once get one conversation', async ({ world }) => {
  const scene = await createScene(world)
  const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))
  const asked = { actor: scene.actor, dryRun: false, settings: {}, ...PLACE }

  const opened = await Promise.all(Array.from({ length: 24 }, (_, i) => openConversation(replicas[i % 3]!.sql, asked)))
  expect(new Set(opened.map((one) => one.conversationId)).size).toBe(1)
  expect(opened.filter((one) => one.created)).toHaveLength(1)
})

test('callers that want a new one at the same time get one each, and the last is found again', async ({ world }) => {
  const scene = await createScene(world)
  await scene.open(PLACE)
  const made = await Promise.all(Array.from({ length: 8 }, () => scene.open({ ...PLACE, forceNew: true })))

  expect(new Set(made).size).toBe(8)
  expect(made).toContain(await scene.open(PLACE))
})

test('a new one takes the place of the old, which can still be reached', async ({ world }) => {
  const scene = await createScene(world)
  const old = await scene.open(PLACE)
  const fresh = await scene.open({ ...PLACE, forceNew: true })

  expect(fresh).not.toBe(old)
  expect(await scene.open(PLACE)).toBe(fresh)
  expect((await getConversation(scene.sql, { actor: scene.actor, conversationId: old })).id).toBe(old)
})

test('an ended conversation is not found again, and its place is free', async ({ world }) => {
  const scene = await createScene(world)
  const old = await scene.open(PLACE)
  await endConversation(scene, { actor: scene.actor, conversationId: old })

  expect(await scene.open(PLACE)).not.toBe(old)
  const get = getConversation(scene.sql, { actor: scene.actor, conversationId: old })
  await expect(get).rejects.toMatchObject({ code: 'not_found' })
})

describe('settings that may hold credentials', () => {
  const envelope = createEnvelope({ current: { text: 'a key', purpose: 'test' }, older: [] })
  const servers = (word: string) => ({ files: { url: `https://x/?key=${word}`, headers: { authorization: word } } })
  const confidential = (word: string) => ({ envelope, settings: { mcpServers: servers(word) } })

  async function createStage(world: World) {
    const scene = await createScene(world)
    const { sql, organizationId } = scene
    const read = (conversationId: string) => readConfidentialSettings(sql, envelope, { organizationId, conversationId })
    return { scene, read }
  }

  test('are stored sealed, and kept until others take their place', async ({ world }) => {
    const { scene, read } = await createStage(world)
    const id = await scene.open({ ...PLACE, confidential: confidential('canary-one') })
    expect(await scene.open(PLACE)).toBe(id)
    expect(await read(id)).toEqual({ mcpServers: servers('canary-one') })
    await scene.open({ ...PLACE, confidential: confidential('canary-two') })
    expect(await read(id)).toEqual({ mcpServers: servers('canary-two') })
    const rows = await scene.sql`select c::text from conversations c where organization_id = ${scene.organizationId}`
    expect(JSON.stringify(rows)).not.toContain('canary')
  })

  test('are not those of the conversation that a new one replaces', async ({ world }) => {
    const { scene, read } = await createStage(world)
    const old = await scene.open({ ...PLACE, confidential: confidential('canary-one') })
    const fresh = await scene.open({ ...PLACE, forceNew: true })
    expect(await read(fresh)).toBeNull()
    const another = await scene.open({ ...PLACE, forceNew: true, confidential: confidential('canary-two') })
    expect(await read(another)).toEqual({ mcpServers: servers('canary-two') })
    expect(await read(old)).toEqual({ mcpServers: servers('canary-one') })
  })

  test('do not open in the conversation of somebody else', async ({ world }) => {
    const { scene, read } = await createStage(world)
    const mine = await scene.open({ ...PLACE, confidential: confidential('canary-one') })
    const theirs = await scene.open({ ...PLACE, userId: 'someone else' })
    await scene.sql`
      update conversations set sealed_settings = (
        select sealed_settings from conversations where organization_id = ${scene.organizationId} and id = ${mine})
      where organization_id = ${scene.organizationId} and id = ${theirs}`
    await expect(read(theirs)).rejects.toMatchObject({ reason: 'damaged' })
  })
})

test('the model is chosen for the agent that is found, and one that cannot be had opens nothing', async ({ world }) => {
  const scene = await createScene(world)
  const asked: string[] = []
  const id = await scene.open({
    ...PLACE,
    chooseModel: async (agentId) => {
      asked.push(agentId)
      return 'demo/chosen'
    },
  })
  const [row] = await scene.sql`
    select settings from conversations where organization_id = ${scene.organizationId} and id = ${id}`
  expect(row).toEqual({ settings: { model: 'demo/chosen' } })
  const refused = scene.open({ ...PLACE, thread: 'new', chooseModel: () => Promise.reject(new Error('no key')) })
  await expect(refused).rejects.toThrow('no key')
  expect(asked).toEqual([scene.agentId])
  expect(await rowsOf(scene)).toHaveLength(1)
})

test('a dry run tells what would be found and stores nothing', async ({ world }) => {
  const scene = await createScene(world)
  const dry = { actor: scene.actor, settings: {}, ...PLACE, dryRun: true }
  expect(await openConversation(scene.sql, dry)).toMatchObject({ created: true })
  expect(await rowsOf(scene)).toEqual([])

  const id = await scene.open(PLACE)
  expect(await openConversation(scene.sql, dry)).toMatchObject({ conversationId: id, created: false })
  await expect(openConversation(scene.sql, { ...dry, agentId: 'unknown' })).rejects.toMatchObject({ code: 'not_found' })
})

test('the last use of an agent is noted, at most once a minute, not by a dry run, and nobody waits for it', async ({
  world,
}) => {
  const scene = await createScene(world)
  const lastUse = async () => {
    const [row] = await scene.sql<{ at: Date | null }[]>`
      select last_used_at as at from agents where organization_id = ${scene.organizationId}`
    return row!.at
  }
  await scene.open({ dryRun: true })
  expect(await lastUse()).toBeNull()
  const held = await scene.hold((await world.replica()).sql, (tx) => {
    return tx`select 1 from agents where organization_id = ${scene.organizationId} for no key update`
  })
  await scene.open()
  await held.release()
  expect(await lastUse()).toBeNull()

  await scene.open()
  const noted = await lastUse()
  expect(noted).not.toBeNull()
  await scene.open()
  expect(await lastUse()).toEqual(noted)
  await scene.sql`
    update agents set last_used_at = last_used_at - interval '2 minutes' where organization_id = ${scene.organizationId}`
  await scene.open()
  expect((await lastUse())!.getTime()).toBeGreaterThanOrEqual(noted!.getTime())
})

test('settings that are given again take the place of the old ones, others stay', async ({ world }) => {
  const scene = await createScene(world)
  await scene.open({ ...PLACE, settings: { model: 'demo/one', networkConfig: { allowedDomains: ['a.example'] } } })
  const id = await scene.open({ ...PLACE, settings: { model: 'demo/two' } })

  const [row] = await scene.sql`select settings from conversations where id = ${id}`
  expect(row).toEqual({ settings: { model: 'demo/two', networkConfig: { allowedDomains: ['a.example'] } } })
})

describe('tenancy', () => {
  test('the same agent, user and thread of two organizations are two conversations', async ({ world }) => {
    const [mine, theirs] = [await createScene(world), await createScene(world)]
    const ids = [await mine.open(PLACE), await theirs.open(PLACE)]

    expect(ids[0]).not.toBe(ids[1])
    const get = getConversation(mine.sql, { actor: mine.actor, conversationId: ids[1]! })
    await expect(get).rejects.toMatchObject({ code: 'not_found' })
  })

  test("another organization's agent is not found", async ({ world }) => {
    const [mine, theirs] = [await createScene(world), await createScene(world)]
    await theirs.sql`insert into agents (organization_id, id, name) values (${theirs.organizationId}, 'theirs', 'x')`
    await expect(mine.open({ agentId: 'theirs' })).rejects.toMatchObject({ code: 'not_found' })
  })

  test('a session token opens nothing, and reaches its own conversation alone', async ({ world }) => {
    const scene = await createScene(world)
    const [own, other] = [await scene.open(), await scene.open()]
    const actor: Actor = { ...scene.actor, kind: 'session', conversationId: own }

    await expect(scene.open({ actor })).rejects.toMatchObject({ code: 'forbidden' })
    expect((await getConversation(scene.sql, { actor, conversationId: own })).id).toBe(own)
    await expect(getConversation(scene.sql, { actor, conversationId: other })).rejects.toMatchObject({
      code: 'not_found',
    })
    await expect(endConversation(scene, { actor, conversationId: other })).rejects.toMatchObject({ code: 'not_found' })
  })
})
