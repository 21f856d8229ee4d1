import { describe, expect } from 'vitest'
import { makeMember, personIn } from '../../../tests/support/people.ts'
import { createScene, type Scene, until } from '../../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../../tests/support/world.ts'
import { scopeToOrganization } from '../../db/tenant.ts'
import type { Actor } from '../accounts/actor.ts'
import { findApiKey } from '../accounts/api-keys.ts'
import { createAuthenticator } from '../accounts/authenticate.ts'
import { ALL_PERMISSIONS, type Permission, ROLE_NAMES, ROLES, type Role } from '../accounts/permissions.ts'
import { createSessionTokens } from '../accounts/session-token.ts'
import { changeRole } from '../organizations/change-role.ts'
import { type CreateKey, createKey } from './create.ts'
import { listKeys } from './list.ts'
import { createKeyUse } from './note-use.ts'
import { revokeKey } from './revoke.ts'
import { rotateKey } from './rotate.ts'

const HOUR_MS = 3_600_000
const tokens = createSessionTokens('a secret of the tests that is long enough')

async function createStage(world: World) {
  const scene = await createScene(world)
  const deps = { sql: scopeToOrganization(scene.sql, scene.organizationId), signals: scene.signals }
  const make = (actor: Actor, over: Partial<CreateKey> = {}) =>
    createKey(deps.sql, { actor, name: 'Key', scope: '*', expiresAt: null, ofOrganization: false, ...over })
  const list = (actor: Actor) => listKeys(deps.sql, { actor, limit: 100 })
  return { scene, deps, make, list, join: (role: Role) => makeMember(scene, world, role) }
}

const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => 'done',
    (error) => error.code,
  )

async function actorOfKey({ sql }: Scene, token: string): Promise<Actor> {
  const actor = await findApiKey(sql, token)
  if (!actor) throw new Error('the key is not valid')
  return actor
}

async function actionsOf({ sql, organizationId }: Scene) {
  const rows = await sql<{ action: string }[]>`
    select action from audit_log where organization_id = ${organizationId} order by id`
  return rows.map(({ action }) => action)
}

describe('a new key', () => {
  test('is shown once, and can do what its scopes say', async ({ world }) => {
    const { scene, make, list, join } = await createStage(world)
    const { actor, userId } = await join('owner')
    const { token, ...key } = await make(actor, { scope: ' usage:read  agents:read usage:read ' })
    expect(key).toMatchObject({ name: 'Key', scopes: ['agents:read', 'usage:read'], userId, lastUsedAt: null })
    expect(token.startsWith(key.tokenPrefix)).toBe(true)
    const permissions = [...(await actorOfKey(scene, token)).permissions].sort()
    expect(permissions).toEqual(['agents:read', 'usage:read'])
    expect(await list(actor)).toEqual([key])
    const log = await scene.sql`select l::text as line from audit_log l where organization_id = ${scene.organizationId}`
    expect(log).toHaveLength(1)
    expect(log[0]!.line).not.toContain(token)
    expect(log[0]!.line).toContain(key.tokenPrefix)
  })

  test('never has a scope that its maker has not', async ({ world }) => {
    const { make, join } = await createStage(world)
    for (const role of ROLE_NAMES) {
      const { actor } = await join(role)
      const mayMake = ROLES[role].includes('keys:write' as never)
      expect(await codeOf(make(actor)), role).toBe(mayMake ? 'done' : 'forbidden')
      for (const scope of ALL_PERMISSIONS) {
        const allowed = mayMake && ROLES[role].includes(scope as never)
        expect(await codeOf(make(actor, { scope })), `${role} ${scope}`).toBe(allowed ? 'done' : 'forbidden')
      }
    }
  })

  test('made by a narrowed key is no wider', async ({ world }) => {
    const { scene, make, join } = await createStage(world)
    const narrow = await make((await join('owner')).actor, { scope: 'keys:write keys:read' })
    const actor = await actorOfKey(scene, narrow.token)
    for (const scope of ['*', 'agents:read', 'keys:write agents:read']) {
      expect(await codeOf(make(actor, { scope })), scope).toBe('forbidden')
    }
    expect(await codeOf(make(actor, { scope: 'keys:read' }))).toBe('done')
  })

  test('shrinks with the role of its owner', async ({ world }) => {
    const { scene, deps, make, join } = await createStage(world)
    const [owner, admin] = [await join('owner'), await join('admin')]
    const { token } = await make(admin.actor)
    await changeRole(deps, { actor: owner.actor, userId: admin.userId, role: 'viewer' })
    expect([...(await actorOfKey(scene, token)).permissions].sort()).toEqual([...ROLES.viewer].sort())
  })

  test('of the organization is made by admins, outlives their membership and is never an owner', async ({ world }) => {
    const { scene, make, join } = await createStage(world)
    const admin = await join('admin')
    const { token, userId } = await make(admin.actor, { ofOrganization: true })
    expect(userId).toBeNull()
    expect(await codeOf(make((await join('member')).actor, { ofOrganization: true }))).toBe('forbidden')
    await scene.sql`delete from members where user_id = ${admin.userId}`
    const actor = await actorOfKey(scene, token)
    expect([...actor.permissions].sort()).toEqual([...ROLES.admin].sort())
    // What such a key makes is the organization's again.
    expect((await make(actor)).userId).toBeNull()
  })

  test.for(['', '  ', 'everything', 'agents:read nonsense'])(
    'with the scope %j is refused',
    async (scope, { world }) => {
      const { make, join } = await createStage(world)
      expect(await codeOf(make((await join('owner')).actor, { scope }))).toBe('invalid_request')
    },
  )

  test('cannot have expired already', async ({ world }) => {
    const { make, join } = await createStage(world)
    const { actor } = await join('owner')
    expect(await codeOf(make(actor, { expiresAt: new Date(Date.now() - 1) }))).toBe('invalid_request')
    const expiresAt = new Date(Date.now() + HOUR_MS)
    expect((await make(actor, { expiresAt })).expiresAt).toEqual(expiresAt)
  })
})

test('members see and revoke their own keys, admins all of the organization’s', async ({ world }) => {
  const { scene, deps, make, list, join } = await createStage(world)
  const [owner, admin, member, other] = [
    await join('owner'),
    await join('admin'),
    await join('member'),
    await join('member'),
  ]
  const keys = [await make(owner.actor), await make(member.actor), await make(other.actor)]
  const ids = (rows: { id: string }[]) => rows.map(({ id }) => id).sort()
  expect(ids(await list(member.actor))).toEqual([keys[1]!.id])
  expect(ids(await list(admin.actor))).toEqual(ids(keys))
  const revoke = (actor: Actor, keyId: string) => codeOf(revokeKey(deps, { actor, keyId }))
  expect(await revoke(member.actor, keys[2]!.id)).toBe('not_found')
  expect(await revoke(member.actor, keys[1]!.id)).toBe('done')
  expect(await revoke(member.actor, keys[1]!.id)).toBe('not_found')
  expect(await revoke(admin.actor, keys[0]!.id)).toBe('done')
  expect(await revoke((await join('viewer')).actor, keys[2]!.id)).toBe('forbidden')
  expect(ids(await list(owner.actor))).toEqual([keys[2]!.id])
  expect((await actionsOf(scene)).filter((action) => action === 'key.revoked')).toHaveLength(2)
})

test('a credential of an admin that is limited sees and revokes the keys that are allowed no more than it', async ({
  world,
}) => {
  const { scene, deps, make, list, join } = await createStage(world)
  const [owner, admin, member] = [await join('owner'), await join('admin'), await join('member')]
  const mine = await make(admin.actor)
  const [whole, narrow] = [await make(owner.actor), await make(member.actor, { scope: 'agents:read' })]
  const only: Permission[] = ['keys:read', 'keys:write', 'agents:read']
  const actor = personIn(scene, { userId: admin.userId, role: 'admin', only })
  const ids = (rows: { id: string }[]) => rows.map(({ id }) => id).sort()
  expect(ids(await list(actor))).toEqual(ids([mine, narrow]))
  expect(await codeOf(revokeKey(deps, { actor, keyId: whole.id }))).toBe('not_found')
  expect(await codeOf(rotateKey(deps, { actor, keyId: whole.id, overlapMs: 0 }))).toBe('not_found')
  expect(await codeOf(revokeKey(deps, { actor, keyId: narrow.id }))).toBe('done')
  expect(ids(await list(admin.actor))).toEqual(ids([mine, whole]))
})

test('keys of another organization are unknown', async ({ world }) => {
  const [here, there] = [await createStage(world), await createStage(world)]
  const { actor } = await here.join('owner')
  const theirs = await there.make((await there.join('owner')).actor)
  for (const sql of [here.deps.sql, here.scene.sql]) {
    const deps = { ...here.deps, sql }
    expect(await codeOf(revokeKey(deps, { actor, keyId: theirs.id }))).toBe('not_found')
    expect(await codeOf(rotateKey(deps, { actor, keyId: theirs.id, overlapMs: 0 }))).toBe('not_found')
    expect(await listKeys(sql, { actor, limit: 10 })).toEqual([])
  }
  await actorOfKey(there.scene, theirs.token)
})

describe('a rotated key', () => {
  test('works beside the new one for the overlap, and then no more', async ({ world }) => {
    const { scene, deps, make, join } = await createStage(world)
    const { actor } = await join('member')
    const old = await make(actor, { scope: 'agents:read', name: 'CI', expiresAt: new Date(Date.now() + HOUR_MS) })
    const fresh = await rotateKey(deps, { actor, keyId: old.id, overlapMs: 60_000 })
    expect(fresh).toMatchObject({ name: 'CI', scopes: ['agents:read'], userId: actor.userId })
    expect(Math.abs(fresh.expiresAt!.getTime() - old.expiresAt!.getTime())).toBeLessThan(60_000)
    const [row] = await scene.sql<{ left: number; replacedBy: string }[]>`
      select extract(epoch from expires_at - now())::int as left, replaced_by as "replacedBy" from api_keys where id = ${old.id}`
    expect(row!.replacedBy).toBe(fresh.id)
    expect(row!.left).toBeLessThanOrEqual(60)
    for (const { token } of [old, fresh]) await actorOfKey(scene, token)
    expect(await codeOf(rotateKey(deps, { actor, keyId: old.id, overlapMs: 0 }))).toBe('conflict')
    await scene.sql`update api_keys set expires_at = now() where id = ${old.id}`
    expect(await findApiKey(scene.sql, old.token)).toBeNull()
    expect(await actionsOf(scene)).toEqual(['key.created', 'key.rotated'])
  })

  test('gives nobody a key of somebody else, or one that may do more than they', async ({ world }) => {
    const { scene, deps, make, join } = await createStage(world)
    const [owner, admin] = [await join('owner'), await join('admin')]
    const key = await make(owner.actor)
    const rotate = (actor: Actor, keyId = key.id) => codeOf(rotateKey(deps, { actor, keyId, overlapMs: 0 }))
    expect(await rotate(admin.actor)).toBe('forbidden')
    const narrow = await make(owner.actor, { scope: 'keys:write' })
    expect(await rotate(await actorOfKey(scene, narrow.token))).toBe('forbidden')
    const shared = await make(owner.actor, { ofOrganization: true })
    expect(await rotate((await join('member')).actor, shared.id)).toBe('not_found')
    expect(await rotate(admin.actor, shared.id)).toBe('done')
    expect(await rotate(owner.actor)).toBe('done')
  })
})

describe('on three replicas that hear nothing of each other', () => {
  requirePostgres('three pools')

  async function createCluster(world: World, scene: Scene) {
    const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))
    const authenticators = replicas.map(({ sql }) => createAuthenticator({ sql, tokens }))
    const isLetIn = (token: string, at: number) =>
      authenticators[at % 3]!.authenticate({ authorization: `Bearer ${token}`, organizationSlug: undefined }).then(
        () => true,
        () => false,
      )
    /** Asks all replicas again and again until it is stopped; each question is noted with when it was asked. */
    function load(token: string) {
      const asked: { at: number; letIn: boolean }[] = []
      let on = true
      const callers = Array.from({ length: 6 }, async (_, index) => {
        for (let turn = 0; on; turn++) {
          const at = performance.now()
          asked.push({ at, letIn: await isLetIn(token, index + turn) })
          // An answer from memory takes no turn of the event loop, and would let nothing else happen.
          await new Promise(setImmediate)
        }
      })
      return {
        asked,
        async stop() {
          on = false
          await Promise.all(callers)
          return asked
        },
      }
    }
    return {
      isLetIn,
      load,
      deps: { sql: scopeToOrganization(replicas[0]!.sql, scene.organizationId), signals: scene.signals },
    }
  }

  test('a revoked key is let in nowhere once the revocation was answered', async ({ world }) => {
    const { scene, make, join } = await createStage(world)
    const { deps, load } = await createCluster(world, scene)
    const { actor } = await join('member')
    const { id, token } = await make(actor)
    const requests = load(token)
    await until(async () => expect(requests.asked.length).toBeGreaterThan(500))
    await revokeKey(deps, { actor, keyId: id })
    const answeredAt = performance.now()
    const before = requests.asked.length
    await until(async () => expect(requests.asked.length).toBeGreaterThan(before + 500))
    const asked = await requests.stop()
    expect(asked[0]!.letIn).toBe(true)
    expect(asked.filter(({ at, letIn }) => at > answeredAt && letIn)).toEqual([])
    expect(asked.filter(({ at }) => at > answeredAt).length).toBeGreaterThan(100)
  })

  test('a rotation leaves no moment in which neither key works', async ({ world }) => {
    const { scene, make, join } = await createStage(world)
    const { deps, load, isLetIn } = await createCluster(world, scene)
    const { actor } = await join('member')
    const old = await make(actor)
    const requests = load(old.token)
    const fresh = await rotateKey(deps, { actor, keyId: old.id, overlapMs: HOUR_MS })
    expect(await Promise.all([0, 1, 2].map((at) => isLetIn(fresh.token, at)))).toEqual([true, true, true])
    const before = requests.asked.length
    await until(async () => expect(requests.asked.length).toBeGreaterThan(before + 500))
    expect((await requests.stop()).filter(({ letIn }) => !letIn)).toEqual([])
    const again = await rotateKey(deps, { actor, keyId: fresh.id, overlapMs: 0 })
    expect(await Promise.all([0, 1, 2].map((at) => isLetIn(fresh.token, at)))).toEqual([false, false, false])
    expect(await Promise.all([0, 1, 2].map((at) => isLetIn(again.token, at)))).toEqual([true, true, true])
  })

  test('a session token goes with the key that it was made with; one that names no key stays', async ({ world }) => {
    const { scene, make, join } = await createStage(world)
    const { deps, isLetIn } = await createCluster(world, scene)
    const { actor } = await join('member')
    const { id } = await make(actor)
    const { organizationId, agentId } = scene
    const conversationId = await scene.open()
    const claims = { organizationId, organizationSlug: organizationId, agentId, userId: 'u', conversationId }
    const session = await tokens.sign({ ...claims, keyId: id })
    const older = await tokens.sign(claims)
    const everywhere = (token: string) => Promise.all([0, 1, 2].map((at) => isLetIn(token, at)))
    expect(await everywhere(session.token)).toEqual([true, true, true])
    await revokeKey(deps, { actor, keyId: id })
    expect(await everywhere(session.token)).toEqual([false, false, false])
    expect(await everywhere(older.token)).toEqual([true, true, true])
    const stranger = await tokens.sign({ ...claims, organizationId: 'another', keyId: id })
    expect(await everywhere(stranger.token)).toEqual([false, false, false])
  })
})

test('the last use of a key is noted a little later, once for many requests', async ({ world }) => {
  const { scene, make, list, join } = await createStage(world)
  const { actor } = await join('member')
  const { id, token } = await make(actor)
  const unused = await make(actor)
  const use = await world.run(createKeyUse({ sql: scene.sql, log: world.log }))
  const authenticator = createAuthenticator({ sql: scene.sql, tokens, noteKeyUse: use.note })
  for (let turn = 0; turn < 20; turn++) {
    await authenticator.authenticate({ authorization: `Bearer ${token}`, organizationSlug: undefined })
  }
  use.ring()
  const usedAt = async () => (await list(actor)).find((key) => key.id === id)!.lastUsedAt
  await until(async () => expect(await usedAt()).not.toBeNull())
  const first = await usedAt()
  use.note({ organizationId: scene.organizationId, keyId: id })
  await use.stop()
  expect(await usedAt()).toEqual(first)
  expect((await list(actor)).find((key) => key.id === unused.id)!.lastUsedAt).toBeNull()
})

test('what was noted is written when the replica stops', async ({ world }) => {
  const { scene, make, list, join } = await createStage(world)
  const { actor } = await join('member')
  const { id } = await make(actor)
  const use = createKeyUse({ sql: scene.sql, log: world.log })
  use.note({ organizationId: scene.organizationId, keyId: id })
  await use.stop()
  expect((await list(actor))[0]!.lastUsedAt).not.toBeNull()
})

test('a credential without the permission sees and makes no keys', async ({ world }) => {
  const { scene, deps, make, list, join } = await createStage(world)
  const owner = await join('owner')
  const actor = personIn(scene, { ...owner, only: ['agents:read'] })
  expect(await codeOf(list(actor))).toBe('forbidden')
  expect(await codeOf(make(actor, { scope: 'agents:read' }))).toBe('forbidden')
  expect(await codeOf(rotateKey(deps, { actor, keyId: 'key', overlapMs: 0 }))).toBe('forbidden')
})
