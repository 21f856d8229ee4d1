import { describe, expect } from 'vitest'
import { buryWebhook, giveUp } from '../../../tests/support/dead-letters.ts'
import { createTestApp } from '../../../tests/support/gateway-app.ts'
import { makeMember } from '../../../tests/support/people.ts'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { test, type World } from '../../../tests/support/world.ts'
import { createApiKey } from '../../domain/accounts/api-keys.ts'
import { type Permission, ROLE_NAMES, ROLES, type Role } from '../../domain/accounts/permissions.ts'
import { claimCalls } from '../../queue/outbox.ts'

const POST = { replica: 'replica-1', leaseMs: 60_000, depthMax: 1, organizationMax: 100, workerIdleMs: 60_000 }
const HOOK = 'https://receiver.example/hook?token=secret'
const LOST = { url: HOOK, attempts: 12 }

async function makeKey(scene: Scene, world: World, role: Role, scopes?: Permission[]) {
  const { userId } = await makeMember(scene, world, role)
  const { organizationId } = scene
  return createApiKey(scene.sql, { organizationId, userId, name: role, ...(scopes ? { scopes } : {}) })
}

async function createStage(world: World) {
  const scene = await createScene(world)
  const { token, id: keyId } = await makeKey(scene, world, 'owner')
  const { call: send, tokens } = createTestApp(scene, world, { post: POST })
  const base = `/api/${scene.organizationId}/dead-letters`
  const call = (method: string, path = '', over: { token?: string } = {}) =>
    send(method, `${base}${path}`, { token, ...over })
  const entries = async () => {
    const { body } = await send('GET', `/api/${scene.organizationId}/audit?action=dead_letter.`, { token })
    return body.entries as { action: string; target: object; actor: { id: string }; details: object }[]
  }
  return { scene, keyId, call, send, tokens, entries }
}

describe('the list', () => {
  test('goes a page at a time, each letter once, and says what it was and where it went', async ({ world }) => {
    const { scene, call } = await createStage(world)
    const { conversation, run, call: delivery } = await buryWebhook(scene, LOST)
    for (let n = 0; n < 3; n++) await giveUp(scene)
    const seen: { id: string; queue: string; createdAt: number }[] = []
    for (let cursor = ''; ; ) {
      const { status, body } = await call('GET', `?limit=2${cursor && `&cursor=${cursor}`}`)
      expect(status).toBe(200)
      seen.push(...body.deadLetters)
      if (body.nextCursor === null) break
      cursor = body.nextCursor
    }
    expect(seen.map(({ id }) => id)).toEqual([...new Set(seen.map(({ id }) => id))].sort())
    expect(seen).toHaveLength(5)
    expect(seen.find(({ id }) => id === run.id)).toMatchObject({
      ...{ queue: 'runs', error: 'given up', conversationId: conversation, target: null },
      ...{ messageId: run.messageId, createdAt: expect.any(Number) },
    })
    expect(seen.find(({ queue }) => queue === 'webhook')).toMatchObject({
      ...{ error: 'status: 500', attempts: 12, conversationId: conversation, messageId: run.messageId },
      target: delivery.target,
    })
  })

  test('can be asked for one queue and one conversation', async ({ world }) => {
    const { scene, call } = await createStage(world)
    const { conversation } = await buryWebhook(scene, LOST)
    await giveUp(scene)
    const queues = async (query: string) =>
      ((await call('GET', query)).body.deadLetters as { queue: string }[]).map(({ queue }) => queue).sort()
    expect(await queues('')).toEqual(['runs', 'runs', 'webhook'])
    expect(await queues('?queue=webhook')).toEqual(['webhook'])
    expect(await queues('?queue=runs')).toEqual(['runs', 'runs'])
    expect(await queues(`?conversationId=${conversation}`)).toEqual(['runs', 'webhook'])
    expect(await queues(`?conversationId=${conversation}&queue=runs`)).toEqual(['runs'])
    expect(await queues('?queue=nothing')).toEqual([])
  })

  test('refuses what means nothing', async ({ world }) => {
    const { call } = await createStage(world)
    for (const query of ['cursor=x', 'limit=0', 'limit=201', 'limit=many', `queue=${'x'.repeat(101)}`]) {
      const { status, body } = await call('GET', `?${query}`)
      expect([status, body.code], query).toEqual([400, 'invalid_request'])
    }
  })
})

test('each role may what the table says, a narrowed key what its scopes say, a session nothing', async ({ world }) => {
  const { scene, call, tokens } = await createStage(world)
  const { conversation, run } = await giveUp(scene)
  const requests = [
    ['GET', ''],
    ['POST', '/00000000-0000-4000-8000-000000000000/replay'],
    ['DELETE', '/no-id'],
  ] as const
  for (const role of ROLE_NAMES) {
    const { token } = await makeKey(scene, world, role)
    const may = ROLES[role].includes('organization:write' as never)
    for (const [method, path] of requests) {
      const { status } = await call(method, path, { token })
      expect(status, `${role} ${method}`).toBe(may ? (method === 'GET' ? 200 : 404) : 403)
    }
  }
  const { token: narrow } = await makeKey(scene, world, 'owner', ['agents:read'])
  const { organizationId, agentId } = scene
  const claims = {
    organizationId,
    organizationSlug: organizationId,
    agentId,
    userId: 'u',
    conversationId: conversation,
  }
  const { token: session } = await tokens.sign(claims)
  for (const token of [narrow, session]) {
    for (const [method] of requests) {
      const path = method === 'GET' ? '' : `/${run.id}${method === 'POST' ? '/replay' : ''}`
      expect((await call(method, path, { token })).status).toBe(403)
    }
  }
})

test('another organization’s letter is unknown, and stays', async ({ world }) => {
  const [here, there] = [await createStage(world), await createStage(world)]
  const { run } = await giveUp(there.scene)
  expect((await here.call('GET')).body).toEqual({ deadLetters: [], nextCursor: null })
  expect((await here.call('POST', `/${run.id}/replay`)).status).toBe(404)
  expect((await here.call('DELETE', `/${run.id}`)).status).toBe(404)
  expect((await there.call('GET')).body.deadLetters).toHaveLength(1)
  expect(await here.entries()).toEqual([])
})

describe('a replay', () => {
  test('of a turn asks its message again, once, and is on record', async ({ world }) => {
    const { scene, keyId, call, entries } = await createStage(world)
    const { conversation, run } = await giveUp(scene)
    const first = await call('POST', `/${run.id}/replay`)
    expect(first).toMatchObject({ status: 202, body: { kind: 'run', conversationId: conversation } })
    expect(await call('POST', `/${run.id}/replay`)).toMatchObject({ status: 404, body: { code: 'not_found' } })
    expect((await call('GET')).body.deadLetters).toEqual([])
    const again = await scene.claimOne()
    expect([again.id, again.messageId]).toEqual([first.body.runId, first.body.messageId])
    expect(await entries()).toMatchObject([
      {
        action: 'dead_letter.replayed',
        ...{ target: { kind: 'dead_letter', id: run.id }, actor: { id: keyId } },
        details: { queue: 'runs', conversationId: conversation, runId: first.body.runId },
      },
    ])
  })

  test('of a webhook owes the call again under its id; the record names the host and no more of the URL', async ({
    world,
  }) => {
    const { scene, call, entries } = await createStage(world)
    const { call: delivery, claim } = await buryWebhook(scene, LOST)
    const { id } = (await call('GET', '?queue=webhook')).body.deadLetters[0]
    expect(await call('POST', `/${id}/replay`)).toMatchObject({
      status: 202,
      body: { kind: 'call', deliveryId: delivery.id },
    })
    expect((await call('POST', `/${id}/replay`)).status).toBe(404)
    const owed = await claimCalls(scene.sql, claim)
    expect(owed).toMatchObject([{ id: delivery.id, payload: delivery.payload, target: HOOK, attempt: 1 }])
    const written = await entries()
    expect(written).toMatchObject([
      { details: { queue: 'webhook', host: 'receiver.example', deliveryId: delivery.id } },
    ])
    expect(JSON.stringify(written)).not.toContain('secret')
  })

  test('that is refused changes nothing and leaves no record', async ({ world }) => {
    const { scene, call, entries } = await createStage(world)
    const { conversation, run } = await giveUp(scene)
    await scene.post(conversation)
    const full = await call('POST', `/${run.id}/replay`)
    expect(full).toMatchObject({ status: 429, body: { code: 'queue_full' } })
    expect(Number(full.headers.get('retry-after'))).toBeGreaterThan(0)
    await scene.sql`update conversations set status = 'ended' where organization_id = ${scene.organizationId}`
    expect(await call('POST', `/${run.id}/replay`)).toMatchObject({ status: 409, body: { code: 'conflict' } })
    expect((await call('GET')).body.deadLetters).toHaveLength(1)
    expect(await entries()).toEqual([])
  })
})

test('a letter is removed once, and that is on record', async ({ world }) => {
  const { scene, call, entries } = await createStage(world)
  const { run, conversation } = await giveUp(scene)
  expect((await call('DELETE', `/${run.id}`)).status).toBe(204)
  expect((await call('DELETE', `/${run.id}`)).status).toBe(404)
  expect((await call('POST', `/${run.id}/replay`)).status).toBe(404)
  expect(await entries()).toMatchObject([
    {
      action: 'dead_letter.removed',
      target: { kind: 'dead_letter', id: run.id },
      details: { queue: 'runs', conversationId: conversation, messageId: run.messageId },
    },
  ])
})
