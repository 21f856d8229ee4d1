import { expect } from 'vitest'
import { createTestApp, PUBLIC_URL } from '../../../tests/support/gateway-app.ts'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { test, type World } from '../../../tests/support/world.ts'
import { createApiKey } from '../../domain/accounts/api-keys.ts'
import type { Role } from '../../domain/accounts/permissions.ts'
import { readSecrets } from '../../domain/secrets/store.ts'
import { createEnvelope } from '../../lib/envelope.ts'
import { AppError } from '../../lib/errors.ts'

const envelope = createEnvelope({
  current: { text: 'a key of the tests that is long enough for it', purpose: 'test' },
  older: [],
})
const PROVIDER = { name: 'Acme SSO', issuer: 'https://idp.example/', clientId: 'lobu', clientSecret: 'never-shown' }

async function keyOf(scene: Scene, world: World, role: Role) {
  const userId = world.unique(role)
  const { sql, organizationId } = scene
  await sql`insert into users (id, email, name) values (${userId}, ${userId}, 'Someone')`
  await sql`insert into members (organization_id, user_id, role) values (${organizationId}, ${userId}, ${role})`
  return createApiKey(sql, { organizationId, userId, name: 'test' })
}

async function createStage(world: World) {
  const scene = await createScene(world)
  const { call } = createTestApp(scene, world, {
    envelope,
    checkIssuer(url) {
      if (url.includes('127.0.0.1')) throw new AppError('invalid_request', 'issuer cannot be called')
    },
  })
  const { token } = await keyOf(scene, world, 'owner')
  const path = `/api/${scene.organizationId}/sign-in-providers`
  return { scene, path, ask: (method: string, more = '', body?: unknown) => call(method, path + more, { token, body }) }
}

test('a provider is added with its callback, listed without its secret, and removed with it', async ({ world }) => {
  const { scene, ask } = await createStage(world)
  const added = await ask('POST', '', PROVIDER)
  expect(added.status).toBe(201)
  const { provider } = added.body
  expect(provider).toMatchObject({
    ...{ name: 'Acme SSO', issuer: 'https://idp.example', clientId: 'lobu', role: 'member' },
    callbackUrl: `${PUBLIC_URL}/api/auth/callback/${provider.providerId}`,
  })
  const listed = await ask('GET')
  expect(listed.body).toEqual({ providers: [provider] })
  expect(added.text + listed.text).not.toContain('never-shown')
  const place = {
    organizationId: scene.organizationId,
    agentId: '',
    kind: 'oidc' as const,
    names: [provider.providerId],
  }
  expect(await readSecrets(scene.sql, envelope, place)).toMatchObject([{ value: 'never-shown' }])
  expect(scene.signals.access).toHaveLength(1)

  expect((await ask('DELETE', `/${provider.providerId}`)).status).toBe(204)
  expect((await ask('GET')).body).toEqual({ providers: [] })
  expect(await readSecrets(scene.sql, envelope, place)).toEqual([])
  expect((await ask('DELETE', `/${provider.providerId}`)).status).toBe(404)
  const actions = await scene.sql<{ action: string; details: unknown }[]>`
    select action, details from audit_log where organization_id = ${scene.organizationId} order by id`
  expect(actions.map(({ action }) => action)).toEqual(['sign_in_provider.added', 'sign_in_provider.removed'])
  expect(JSON.stringify(actions)).not.toContain('never-shown')
})

test('what cannot be called or is too many is refused, and nothing is stored', async ({ world }) => {
  const { scene, ask } = await createStage(world)
  const rows = async () => {
    return (await scene.sql`select 1 from organization_sign_ins where organization_id = ${scene.organizationId}`).length
  }
  for (const bad of [
    ...[{ issuer: 'https://127.0.0.1' }, { issuer: 'ftp://x' }, { issuer: '' }, { name: ' ' }, { clientSecret: '' }],
    { role: 'owner' },
  ]) {
    const answer = await ask('POST', '', { ...PROVIDER, ...bad })
    expect([answer.status, answer.body.code], JSON.stringify(bad)).toEqual([400, 'invalid_request'])
  }
  expect(await rows()).toBe(0)
  const many = await Promise.all(Array.from({ length: 8 }, () => ask('POST', '', PROVIDER)))
  expect(many.map(({ status }) => status).sort()).toEqual([201, 201, 201, 201, 201, 409, 409, 409])
  expect(await rows()).toBe(5)
})

test('a credential that may not do what an admin may lets nobody in as an admin', async ({ world }) => {
  const { scene, path } = await createStage(world)
  const { call } = createTestApp(scene, world, { envelope, checkIssuer() {} })
  const fields = { organizationId: scene.organizationId, userId: null, name: 'test' }
  const { token } = await createApiKey(scene.sql, { ...fields, scopes: ['organization:write'] })
  for (const role of ['admin', 'member', 'viewer']) {
    const answer = await call('POST', path, { token, body: { ...PROVIDER, role } })
    expect([answer.status, answer.body.code], role).toEqual([403, 'forbidden'])
  }
  expect(await scene.sql`select 1 from organization_sign_ins where organization_id = ${fields.organizationId}`).toEqual(
    [],
  )
})

test('owners say how long the audit log is kept', async ({ world }) => {
  const scene = await createScene(world)
  const { call } = createTestApp(scene, world)
  const path = `/api/${scene.organizationId}/audit/retention`
  const [owner, admin] = [await keyOf(scene, world, 'owner'), await keyOf(scene, world, 'admin')]
  expect((await call('GET', path, owner)).body).toEqual({ days: null, inForceDays: 365 })
  expect((await call('PUT', path, { token: owner.token, body: { days: 30 } })).body).toEqual({
    days: 30,
    inForceDays: 30,
  })
  expect((await call('PUT', path, { token: admin.token, body: { days: 1 } })).status).toBe(403)
  for (const days of [0, 1.5, 40_000, 'x', undefined]) {
    expect((await call('PUT', path, { token: owner.token, body: { days } })).status, String(days)).toBe(400)
  }
  expect((await call('PUT', path, { token: owner.token, body: { days: null } })).body.inForceDays).toBe(365)
})
