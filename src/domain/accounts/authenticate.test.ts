import { describe, expect } from 'vitest'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { test } from '../../../tests/support/world.ts'
import { createApiKey, findApiKey } from './api-keys.ts'
import { createAuthenticator } from './authenticate.ts'
import { createSessionTokens } from './session-token.ts'

const tokens = createSessionTokens('a secret of the tests that is long enough')

async function makeKey(scene: Scene) {
  const userId = `${scene.organizationId}-user`
  await scene.sql`insert into users (id, email, name) values (${userId}, ${userId}, 'Someone') on conflict do nothing`
  await scene.sql`
    insert into members (organization_id, user_id, role) values (${scene.organizationId}, ${userId}, 'member')
    on conflict do nothing`
  return createApiKey(scene.sql, { organizationId: scene.organizationId, userId, name: 'test' })
}

function authenticator(scene: Scene) {
  return createAuthenticator({ sql: scene.sql, tokens })
}

describe('an API key', () => {
  test('speaks for its organization and its owner', async ({ world }) => {
    const scene = await createScene(world)
    const { token } = await makeKey(scene)

    expect(
      await authenticator(scene).authenticate({ authorization: `Bearer ${token}`, organizationSlug: undefined }),
    ).toMatchObject({
      kind: 'key',
      role: 'member',
      organizationId: scene.organizationId,
      organizationSlug: scene.organizationId,
      userId: `${scene.organizationId}-user`,
    })
  })

  test('can be told by its prefix, and is kept only as a hash', async ({ world }) => {
    const scene = await createScene(world)
    const { token } = await makeKey(scene)
    const rows = await scene.sql`select * from api_keys where organization_id = ${scene.organizationId}`

    expect(token).toMatch(/^lobu_[\w-]{32}$/)
    expect(JSON.stringify(rows)).not.toContain(token)
    expect(rows[0]).toMatchObject({ token_prefix: token.slice(0, 12) })
  })

  test('that was revoked, has expired or never was is refused', async ({ world }) => {
    const scene = await createScene(world)
    const [revoked, expired, valid] = [await makeKey(scene), await makeKey(scene), await makeKey(scene)]
    await scene.sql`update api_keys set revoked_at = now() where id = ${revoked.id}`
    await scene.sql`update api_keys set expires_at = now() where id = ${expired.id}`
    await scene.sql`update api_keys set expires_at = now() + interval '1 hour' where id = ${valid.id}`

    for (const token of [revoked.token, expired.token, 'lobu_unknown', `${valid.token}x`]) {
      expect(await findApiKey(scene.sql, token)).toBeNull()
      const authenticating = authenticator(scene).authenticate({
        authorization: `Bearer ${token}`,
        organizationSlug: undefined,
      })
      await expect(authenticating).rejects.toMatchObject({ code: 'unauthenticated' })
    }
    expect(await findApiKey(scene.sql, valid.token)).not.toBeNull()
  })
})

describe('a session token', () => {
  test('speaks for its conversation', async ({ world }) => {
    const scene = await createScene(world)
    const claims = {
      organizationId: scene.organizationId,
      organizationSlug: scene.organizationId,
      agentId: scene.agentId,
      userId: 'user-1',
      conversationId: await scene.open(),
    }
    const { token } = await tokens.sign(claims)
    expect(
      await authenticator(scene).authenticate({ authorization: `bearer ${token}`, organizationSlug: undefined }),
    ).toMatchObject({
      kind: 'session',
      organizationId: claims.organizationId,
      userId: 'user-1',
      conversationId: claims.conversationId,
    })
  })
})

test.for([undefined, '', 'Bearer', 'Bearer ', 'Basic abc', 'abc', 'Bearer a b'])(
  'the header %j is no credential',
  async (header, { world }) => {
    const scene = await createScene(world)
    const authenticating = authenticator(scene).authenticate({ authorization: header, organizationSlug: undefined })
    await expect(authenticating).rejects.toMatchObject({ code: 'unauthenticated' })
  },
)

test('a session token that a person made ends with the membership', async ({ world }) => {
  const scene = await createScene(world)
  const { organizationId } = scene
  await makeKey(scene)
  const memberId = `${organizationId}-user`
  const place = { organizationId, organizationSlug: organizationId, agentId: scene.agentId, userId: 'user-1' }
  const { token } = await tokens.sign({ ...place, conversationId: await scene.open(), memberId })
  const ask = () => authenticator(scene).authenticate({ authorization: `Bearer ${token}`, organizationSlug: undefined })
  expect(await ask()).toMatchObject({ kind: 'session', userId: 'user-1' })
  await scene.sql`update members set role = 'viewer' where user_id = ${memberId}`
  await expect(ask()).rejects.toMatchObject({ code: 'unauthenticated' })
  await scene.sql`delete from members where user_id = ${memberId}`
  await expect(ask()).rejects.toMatchObject({ code: 'unauthenticated' })
})

test('a credential is good for its own organization alone', async ({ world }) => {
  const [scene, other] = [await createScene(world), await createScene(world)]
  const { token } = await makeKey(scene)
  const authenticate = (slug: string) =>
    authenticator(scene).authenticate({ authorization: `Bearer ${token}`, organizationSlug: slug })

  expect(await authenticate(scene.organizationId)).toMatchObject({ organizationId: scene.organizationId })
  expect(await authenticate('')).toMatchObject({ organizationId: scene.organizationId })
  await expect(authenticate(other.organizationId)).rejects.toMatchObject({ code: 'forbidden' })
  await expect(authenticate('unknown')).rejects.toMatchObject({ code: 'not_found' })
})
