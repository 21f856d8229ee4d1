import { createHmac } from 'node:crypto'
import { describe, expect } from 'vitest'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { test, type World } from '../../../tests/support/world.ts'
import { createAuthenticator } from './authenticate.ts'
import { createPersonLookup, createSessionCookies } from './browser-session.ts'
import { createSessionTokens } from './session-token.ts'

const SECRET = 'a secret of the tests that is long enough'
const cookies = createSessionCookies({ secret: SECRET, publicUrl: 'http://localhost:8787', prefix: 'lobu' })
const sign = (token: string, secret = SECRET) =>
  encodeURIComponent(`${token}.${createHmac('sha256', secret).update(token).digest('base64')}`)

async function signIn(scene: Scene, userId: string, { hours = 1 } = {}) {
  const token = `${userId}-session-${hours}`
  await scene.sql`insert into users (id, email, name) values (${userId}, ${userId}, 'Someone') on conflict do nothing`
  await scene.sql`
    insert into user_sessions (id, token, user_id, expires_at)
    values (${token}, ${token}, ${userId}, now() + make_interval(hours => ${hours}))`
  return `lobu.session_token=${sign(token)}`
}

const join = (scene: Scene, userId: string, role = 'member') => scene.sql`
  insert into members (organization_id, user_id, role) values (${scene.organizationId}, ${userId}, ${role})`

function replica(scene: Scene) {
  const people = createPersonLookup({ sql: scene.sql, cookies })
  const authenticator = createAuthenticator({ sql: scene.sql, tokens: createSessionTokens(SECRET), people })
  const ask = (cookie: string, organizationSlug?: string) =>
    authenticator.authenticate({ authorization: undefined, cookie, organizationSlug })
  return { ask, authenticator }
}

async function createPair(world: World) {
  const [scene, other] = [await createScene(world), await createScene(world)]
  const userId = world.unique('person')
  return { scene, other, userId, cookie: await signIn(scene, userId) }
}

describe('a signed-in person', () => {
  test('acts in the organization that is named, else in the one they joined first, with their role there', async ({
    world,
  }) => {
    const { scene, other, userId, cookie } = await createPair(world)
    await join(scene, userId, 'viewer')
    await other.sql`
      insert into members (organization_id, user_id, role, created_at)
      values (${other.organizationId}, ${userId}, 'owner', now() + interval '1 minute')`
    const { ask } = replica(scene)
    const first = await ask(cookie)
    expect(first).toMatchObject({ kind: 'user', userId, role: 'viewer', organizationId: scene.organizationId })
    expect(first.permissions.has('agents:write')).toBe(false)
    const second = await ask(cookie, other.organizationId)
    expect(second).toMatchObject({ role: 'owner', organizationId: other.organizationId })
    expect(second.permissions.has('organization:delete')).toBe(true)
  })

  test('is refused where they are no member, and hears of it when they are a member nowhere', async ({ world }) => {
    const { scene, other, userId, cookie } = await createPair(world)
    const { ask, authenticator } = replica(scene)
    await expect(ask(cookie)).rejects.toMatchObject({ code: 'no_organization' })
    await join(scene, userId)
    authenticator.forget()
    await expect(ask(cookie, other.organizationId)).rejects.toMatchObject({ code: 'forbidden' })
    await expect(ask(cookie, 'unknown')).rejects.toMatchObject({ code: 'not_found' })
  })

  test('is nobody any more once the session is gone or over, or they were removed, when that is rung', async ({
    world,
  }) => {
    const { scene, userId, cookie } = await createPair(world)
    await join(scene, userId)
    const { ask, authenticator } = replica(scene)
    expect(await ask(cookie)).toMatchObject({ userId })
    await scene.sql`delete from members where user_id = ${userId}`
    authenticator.forget()
    await expect(ask(cookie)).rejects.toMatchObject({ code: 'no_organization' })
    await scene.sql`delete from user_sessions where user_id = ${userId}`
    authenticator.forget()
    await expect(ask(cookie)).rejects.toMatchObject({ code: 'unauthenticated' })
    await expect(ask(await signIn(scene, userId, { hours: -1 }))).rejects.toMatchObject({ code: 'unauthenticated' })
  })

  test('does not lend their cookie to a request that names another credential', async ({ world }) => {
    const { scene, userId, cookie } = await createPair(world)
    await join(scene, userId)
    const { authenticator } = replica(scene)
    const asking = authenticator.authenticate({ authorization: 'Bearer lobu_x', cookie, organizationSlug: undefined })
    await expect(asking).rejects.toMatchObject({ code: 'unauthenticated' })
  })
})

test.for([
  ['of another secret', `lobu.session_token=${sign('token', 'another secret')}`],
  ['without a signature', 'lobu.session_token=token'],
  ['with an empty signature', 'lobu.session_token=token.'],
  ['with a longer token', `lobu.session_token=x${sign('token')}`],
  ['that cannot be decoded', 'lobu.session_token=%E0%A4%A'],
  ['of another name', `other.session_token=${sign('token')}`],
  ['of https on plain http', `__Secure-lobu.session_token=${sign('token')}`],
  ['that is not there', 'a=b; c'],
] as const)('a cookie %s is none', ([, header]) => {
  expect(cookies.read(header)).toBeNull()
  expect(cookies.read(undefined)).toBeNull()
})

test('under https only the cookie counts that browsers keep from plain http', () => {
  const secure = createSessionCookies({ secret: SECRET, publicUrl: 'https://lobu.test', prefix: 'lobu' })
  expect(secure.read(`lobu.session_token=${sign('token')}`)).toBeNull()
  expect(secure.read(`a=b; __Secure-lobu.session_token=${sign('token')}`)).toBe('token')
})
