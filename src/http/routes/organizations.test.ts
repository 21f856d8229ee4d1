import { describe, expect } from 'vitest'
import { createTestApp, PUBLIC_URL } from '../../../tests/support/gateway-app.ts'
import { makeMember, makeUser } from '../../../tests/support/people.ts'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { test, type World } from '../../../tests/support/world.ts'
import { createApiKey } from '../../domain/accounts/api-keys.ts'
import { PERMISSIONS, type Permission, ROLE_NAMES, ROLES, type Role } from '../../domain/accounts/permissions.ts'

async function makeKey(scene: Scene, world: World, role: Role, scopes?: Permission[]) {
  const { userId, email } = await makeMember(scene, world, role)
  const { organizationId } = scene
  const key = await createApiKey(scene.sql, { organizationId, userId, name: role, ...(scopes ? { scopes } : {}) })
  return { ...key, userId, email }
}

async function createStage(world: World) {
  const scene = await createScene(world)
  const owner = await makeKey(scene, world, 'owner')
  return { scene, owner, base: `/api/${scene.organizationId}`, ...createTestApp(scene, world) }
}

interface Case {
  method: string
  path: string
  needs: Permission
  body?: unknown
  /** Answers of who may; the ids in the paths are of nobody. */
  may: number
}

const CASES: Case[] = [
  { method: 'PATCH', path: '', needs: 'organization:write', body: { name: 'New' }, may: 200 },
  { method: 'GET', path: '/members', needs: 'members:read', may: 200 },
  { method: 'PATCH', path: '/members/nobody', needs: 'members:write', body: { role: 'viewer' }, may: 404 },
  { method: 'DELETE', path: '/members/nobody', needs: 'members:write', may: 404 },
  { method: 'POST', path: '/transfer', needs: 'organization:delete', body: { userId: 'nobody' }, may: 404 },
  { method: 'GET', path: '/invitations', needs: 'members:read', may: 200 },
  { method: 'POST', path: '/invitations', needs: 'members:write', body: { role: 'viewer' }, may: 201 },
  { method: 'DELETE', path: '/invitations/nothing', needs: 'members:write', may: 404 },
  { method: 'GET', path: '/tokens', needs: 'keys:read', may: 200 },
  { method: 'POST', path: '/tokens', needs: 'keys:write', body: { name: 'k' }, may: 201 },
  { method: 'DELETE', path: '/tokens/nothing', needs: 'keys:write', may: 404 },
  { method: 'POST', path: '/tokens/nothing/rotate', needs: 'keys:write', body: {}, may: 404 },
  { method: 'GET', path: '/audit', needs: 'audit:read', may: 200 },
  { method: 'GET', path: '/audit.csv', needs: 'audit:read', may: 200 },
]

test('each role may what the table says: unknown things are 404 to who may, and 403 to who may not', async ({
  world,
}) => {
  const { scene, base, call } = await createStage(world)
  for (const role of ROLE_NAMES) {
    const { token } = await makeKey(scene, world, role)
    for (const { method, path, needs, body, may } of CASES) {
      const expected = (ROLES[role] as readonly Permission[]).includes(needs) ? may : 403
      const answer = await call(method, `${base}${path}`, { token, body })
      expect(answer.status, `${role} ${method} ${path}: ${answer.text}`).toBe(expected)
    }
  }
})

test('a key of another organization is 403 here, and any is 404 in an unknown one', async ({ world }) => {
  const [here, there] = [await createStage(world), await createStage(world)]
  for (const { method, path, body } of [...CASES, { method: 'DELETE', path: '', body: undefined }]) {
    const { token } = there.owner
    expect((await here.call(method, `${here.base}${path}`, { token, body })).status, `${method} ${path}`).toBe(403)
    expect((await here.call(method, `/api/nowhere${path}`, { token, body })).status, `${method} ${path}`).toBe(404)
  }
  expect(await here.scene.sql`select 1 from organizations where id = ${here.scene.organizationId}`).toHaveLength(1)
})

test('a session token manages nothing', async ({ world }) => {
  const { scene, base, call, tokens } = await createStage(world)
  const { organizationId, agentId } = scene
  const claims = { organizationId, organizationSlug: organizationId, agentId, userId: 'u', conversationId: 'conv_x' }
  const { token } = await tokens.sign(claims)
  for (const { method, path, body } of [...CASES, { method: 'GET', path: '', body: undefined }]) {
    expect((await call(method, `${base}${path}`, { token, body })).status, `${method} ${path}`).toBe(403)
  }
  for (const [method, path, body] of [
    ['GET', '/api/organizations'],
    ['POST', '/api/organizations', { name: 'X' }],
    ['POST', '/api/invitations/accept', { token: 'x' }],
    ['POST', `${base}/leave`],
    ['GET', `${base}/permissions`],
    ['DELETE', base],
  ] as const) {
    expect((await call(method, path, { token, body })).status, `${method} ${path}`).toBe(403)
  }
})

describe('a reserved word', () => {
  test.for(['v1', 'auth', 'organizations', 'invitations', 'agents', 'workers'])(
    '%s is no organization, whose own is not meant instead',
    async (word, { world }) => {
      const { scene, owner, call } = await createStage(world)
      for (const [method, rest] of [
        ['DELETE', ''],
        ['PATCH', ''],
        ['GET', '/members'],
        ['POST', '/leave'],
        ['GET', '/audit'],
      ] as const) {
        const body = method === 'PATCH' ? { name: 'Taken over' } : undefined
        const { status } = await call(method, `/api/${word}${rest}`, { token: owner.token, body })
        expect([404, 405], `${method} /api/${word}${rest}: ${status}`).toContain(status)
      }
      const [row] = await scene.sql`select name from organizations where id = ${scene.organizationId}`
      expect(row).toEqual({ name: 'Test' })
    },
  )
})

test('an organization is made, read, renamed and deleted', async ({ world }) => {
  const { scene, owner, call } = await createStage(world)
  const slug = world.unique('acme')
  const made = await call('POST', '/api/organizations', { token: owner.token, body: { name: ' Acme ', slug } })
  expect([made.status, made.body.organization]).toMatchObject([201, { name: 'Acme', slug }])
  const { id } = made.body.organization
  const { token } = await createApiKey(scene.sql, { organizationId: id, userId: owner.userId, name: 'k' })
  expect((await call('GET', `/api/${slug}`, { token })).body).toEqual(made.body)
  expect((await call('GET', '/api/organizations', { token })).body.organizations).toEqual([
    { ...made.body.organization, role: 'owner' },
  ])
  const renamed = world.unique('renamed')
  expect((await call('PATCH', `/api/${slug}`, { token, body: { slug: renamed } })).status).toBe(200)
  // The signals of a test reach no authenticator; its memory is short.
  await expect.poll(async () => (await call('GET', `/api/${renamed}`, { token })).status, { timeout: 20_000 }).toBe(200)
  expect((await call('GET', `/api/${slug}`, { token })).status).toBe(404)
  expect((await call('DELETE', `/api/${renamed}`, { token })).status).toBe(204)
  expect((await call('GET', `/api/${renamed}`, { token })).status).toBe(401)
  for (const body of [{}, { name: '' }, { name: 'x', slug: 'Not a slug' }, { name: 'x'.repeat(101) }]) {
    expect((await call('POST', '/api/organizations', { token: owner.token, body })).status).toBe(400)
  }
  const taken = { name: 'x', slug: scene.organizationId }
  expect((await call('POST', '/api/organizations', { token: owner.token, body: taken })).status).toBe(409)
})

test('a key that is limited, or the organization’s own, makes and joins none', async ({ world }) => {
  const { scene, call } = await createStage(world)
  const limited = await makeKey(scene, world, 'owner', ['members:read'])
  const own = await createApiKey(scene.sql, { organizationId: scene.organizationId, userId: null, name: 'own' })
  for (const { token } of [limited, own]) {
    expect((await call('POST', '/api/organizations', { token, body: { name: 'X' } })).status).toBe(403)
    expect((await call('POST', '/api/invitations/accept', { token, body: { token: 'x' } })).status).toBe(403)
  }
})

test('where there is one organization, nobody makes a second', async ({ world }) => {
  const { scene, owner } = await createStage(world)
  const { call } = createTestApp(scene, world, { singleOrganization: true })
  const answer = await call('POST', '/api/organizations', { token: owner.token, body: { name: 'X' } })
  expect([answer.status, answer.body.code]).toEqual([403, 'forbidden'])
})

test('a person joins by a link, which is shown once, and leaves again', async ({ world }) => {
  const [stage, elsewhere] = [await createStage(world), await createStage(world)]
  const { scene, owner, base, call } = stage
  const guest = await makeKey(elsewhere.scene, world, 'member')
  const made = await call('POST', `${base}/invitations`, {
    token: owner.token,
    body: { role: 'admin', email: guest.email },
  })
  const { url, ...shown } = made.body.invitation
  expect(url.startsWith(`${PUBLIC_URL}/invite#token=`)).toBe(true)
  const { mailed, ...listed } = shown
  expect(mailed).toBe(false)
  expect((await call('GET', `${base}/invitations`, { token: owner.token })).body).toEqual({ invitations: [listed] })
  const body = { token: url.split('#token=')[1] }
  const accepted = await call('POST', '/api/invitations/accept', { token: guest.token, body })
  expect([accepted.status, accepted.body]).toMatchObject([200, { organizationId: scene.organizationId, role: 'admin' }])
  expect((await call('POST', '/api/invitations/accept', { token: guest.token, body })).status).toBe(404)
  const [entry] = (await call('GET', `${base}/audit?action=invitation.accepted`, { token: owner.token })).body.entries
  expect(entry.actor).toEqual({ kind: 'key', id: guest.id, userId: guest.userId, email: guest.email })
  const { organizationId } = scene
  const { token } = await createApiKey(scene.sql, { organizationId, userId: guest.userId, name: 'here' })
  const { members } = (await call('GET', `${base}/members`, { token })).body
  expect(members.map(({ userId, role }: { userId: string; role: string }) => `${userId} ${role}`).sort()).toEqual(
    [`${guest.userId} admin`, `${owner.userId} owner`].sort(),
  )
  expect((await call('POST', `${base}/leave`, { token })).status).toBe(204)
  expect((await call('GET', base, { token })).status).toBe(401)
  expect((await call('POST', `${base}/leave`, { token: owner.token })).body.code).toBe('conflict')
})

test('the permissions are told to a page as the code knows them, with the caller’s own', async ({ world }) => {
  const { scene, base, call } = await createStage(world)
  const { token } = await makeKey(scene, world, 'member', ['agents:read'])
  const { body } = await call('GET', `${base}/permissions`, { token })
  expect(body.roles).toEqual(ROLES)
  expect(
    Object.fromEntries(body.permissions.map((one: { name: string; meaning: string }) => [one.name, one.meaning])),
  ).toEqual(PERMISSIONS)
  expect(body.own).toEqual({ role: 'member', permissions: ['agents:read'] })
})

test('a key is made, listed without itself, rotated and revoked', async ({ world }) => {
  const { owner, base, call } = await createStage(world)
  const { token } = owner
  const made = await call('POST', `${base}/tokens`, {
    token,
    body: { name: 'CI', scope: 'agents:read', expires_at: '2099-01-01T00:00:00Z' },
  })
  expect(made.status).toBe(201)
  expect(made.body.token).toMatchObject({
    ...{ name: 'CI', scope: 'agents:read', expires_at: '2099-01-01T00:00:00.000Z', user_id: owner.userId },
    ...{ token: expect.stringMatching(/^lobu_/), token_prefix: made.body.token.token.slice(0, 12) },
  })
  const { id } = made.body.token
  const listed = await call('GET', `${base}/tokens`, { token })
  expect(listed.body.tokens).toHaveLength(2)
  expect(listed.text).not.toContain(made.body.token.token)
  const rotated = await call('POST', `${base}/tokens/${id}/rotate`, { token })
  expect(rotated.status).toBe(201)
  for (const key of [made, rotated]) {
    expect((await call('GET', `${base}/agents`, { token: key.body.token.token })).status).toBe(200)
  }
  expect((await call('DELETE', `${base}/tokens/${rotated.body.token.id}`, { token })).status).toBe(204)
  expect((await call('GET', `${base}/agents`, { token: rotated.body.token.token })).status).toBe(401)
  for (const body of [{}, { name: 'x', scope: 'nonsense' }, { name: 'x', expires_at: 'tomorrow' }]) {
    expect((await call('POST', `${base}/tokens`, { token, body })).status).toBe(400)
  }
})

test('the audit log is paged, filtered and exported', async ({ world }) => {
  const { owner, base, call } = await createStage(world)
  const { token } = owner
  for (const name of ['=one', 'two', 'three']) await call('POST', `${base}/tokens`, { token, body: { name } })
  const first = (await call('GET', `${base}/audit?limit=2`, { token })).body
  expect(first.entries).toHaveLength(2)
  const rest = (await call('GET', `${base}/audit?limit=2&cursor=${first.nextCursor}`, { token })).body
  expect(rest).toMatchObject({ entries: [{ action: 'key.created' }], nextCursor: null })
  const by = (await call('GET', `${base}/audit?actor=${owner.id}&action=key.`, { token })).body
  expect(by.entries).toHaveLength(3)
  expect(by.entries[0]).toMatchObject({
    actor: { kind: 'key', id: owner.id, userId: owner.userId, email: owner.email },
  })
  const csv = await call('GET', `${base}/audit.csv?action=key.`, { token })
  expect(csv.headers.get('content-type')).toBe('text/csv; charset=utf-8')
  expect(csv.headers.get('content-disposition')).toContain('audit.csv')
  expect(csv.text.trimEnd().split('\r\n')).toHaveLength(4)
  for (const query of ['from=yesterday', 'cursor=x', 'limit=0']) {
    expect((await call('GET', `${base}/audit?${query}`, { token })).status, query).toBe(400)
  }
})

test('ids that no text of the database can hold are refused, not a fault', async ({ world }) => {
  const { owner, base, call } = await createStage(world)
  for (const [method, path] of [
    ['DELETE', '/members/a%00b'],
    ['DELETE', '/invitations/a%00b'],
    ['DELETE', '/tokens/a%00b'],
    ['GET', '/members?after=a%00b'],
    ['GET', '/audit?target=a%00b'],
  ] as const) {
    const { status } = await call(method, `${base}${path}`, { token: owner.token })
    expect([400, 404], `${method} ${path}: ${status}`).toContain(status)
  }
  const { userId } = await makeUser({ sql: (await world.replica()).sql }, world)
  expect((await call('DELETE', `${base}/members/${userId}`, { token: owner.token })).status).toBe(404)
})
