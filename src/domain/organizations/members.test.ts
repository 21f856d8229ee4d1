import { describe, expect } from 'vitest'
import { makeMember, personIn } from '../../../tests/support/people.ts'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../../tests/support/world.ts'
import { scopeToOrganization } from '../../db/tenant.ts'
import { createApiKey, findApiKey } from '../accounts/api-keys.ts'
import { type Permission, ROLE_NAMES, ROLES, type Role } from '../accounts/permissions.ts'
import { changeRole } from './change-role.ts'
import { createInvitation } from './create-invitation.ts'
import { leaveOrganization } from './leave.ts'
import { listInvitations } from './list-invitations.ts'
import { listMembers } from './list-members.ts'
import { removeMember } from './remove-member.ts'
import { revokeInvitation } from './revoke-invitation.ts'
import { transferOwnership } from './transfer.ts'

async function createStage(world: World) {
  const scene = await createScene(world)
  const deps = { sql: scopeToOrganization(scene.sql, scene.organizationId), signals: scene.signals }
  const join = (role: Role) => makeMember(scene, world, role)
  return { scene, deps, join }
}

async function rolesOf({ sql, organizationId }: Scene) {
  const rows = await sql<{ userId: string; role: Role }[]>`
    select user_id as "userId", role from members where organization_id = ${organizationId}`
  return Object.fromEntries(rows.map(({ userId, role }) => [userId, role]))
}

async function lastEntry({ sql, organizationId }: Scene) {
  const [row] = await sql`
    select action, actor_id, target_id, details from audit_log where organization_id = ${organizationId}
    order by id desc limit 1`
  return row
}

const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => 'done',
    (error) => error.code,
  )

const isAbove = (role: Role, other: Role) => ROLE_NAMES.indexOf(role) <= ROLE_NAMES.indexOf(other)

test('each role changes and removes members up to its own, and only those who manage members', async ({ world }) => {
  const { deps, join } = await createStage(world)
  await join('owner')
  for (const own of ROLE_NAMES) {
    const { actor } = await join(own)
    const manages = ROLES[own].includes('members:write')
    for (const other of ROLE_NAMES) {
      const allowed = manages && isAbove(own, other) ? 'done' : 'forbidden'
      const { userId } = await join(other)
      expect(await codeOf(changeRole(deps, { actor, userId, role: 'viewer' })), `${own} demotes ${other}`).toBe(allowed)
      const victim = await join(other)
      expect(await codeOf(removeMember(deps, { actor, userId: victim.userId })), `${own} removes ${other}`).toBe(
        allowed,
      )
      const viewer = await join('viewer')
      const raise = { actor, userId: viewer.userId, role: other }
      expect(await codeOf(changeRole(deps, raise)), `${own} makes ${other}`).toBe(allowed)
    }
  }
})

test('a credential of an owner that is limited to some permissions touches no owner and no admin', async ({
  world,
}) => {
  const { scene, deps, join } = await createStage(world)
  await join('owner')
  const owner = await join('owner')
  const limited = (only: Permission[]) => personIn(scene, { userId: owner.userId, role: 'owner', only })
  const members = limited(['members:read', 'members:write'])
  const butOne = limited(ROLES.owner.filter((permission) => permission !== 'organization:delete'))
  const all = limited([...ROLES.owner])
  const may = { owner: [all], admin: [all, butOne], member: [all, butOne, members], viewer: [all, butOne, members] }
  for (const role of ROLE_NAMES) {
    for (const actor of [members, butOne, all]) {
      const expected = may[role].includes(actor) ? 'done' : 'forbidden'
      const { userId } = await join(role)
      expect(await codeOf(removeMember(deps, { actor, userId })), `${role} by ${actor.permissions.size}`).toBe(expected)
    }
  }
})

test('each role reads what its permissions say', async ({ world }) => {
  const { deps, join } = await createStage(world)
  const { actor: owner } = await join('owner')
  const { id } = await createInvitation({ ...deps, publicUrl: '' }, { actor: owner, role: 'viewer', email: null })
  for (const role of ROLE_NAMES) {
    const { actor } = await join(role)
    expect((await listMembers(deps.sql, { actor, limit: 100 })).length).toBeGreaterThan(0)
    expect((await listInvitations(deps.sql, { actor, limit: 100 })).map((one) => one.id)).toEqual([id])
    const { actor: none } = { actor: personIn(actor, { userId: actor.userId, role, only: [] }) }
    expect(await codeOf(listMembers(deps.sql, { actor: none, limit: 100 }))).toBe('forbidden')
  }
})

test('a changed role is on record and told to all replicas; the same role again is no change', async ({ world }) => {
  const { scene, deps, join } = await createStage(world)
  const [owner, other] = [await join('owner'), await join('member')]
  await changeRole(deps, { actor: owner.actor, userId: other.userId, role: 'admin' })
  expect(await lastEntry(scene)).toEqual({
    action: 'member.role_changed',
    actor_id: owner.actor.credentialId,
    target_id: other.userId,
    details: { before: 'member', after: 'admin' },
  })
  await changeRole(deps, { actor: owner.actor, userId: other.userId, role: 'admin' })
  expect(scene.signals.access).toHaveLength(1)
})

test('who is removed takes their keys and invitations along, and nobody is told more than once', async ({ world }) => {
  const { scene, deps, join } = await createStage(world)
  const [owner, admin] = [await join('owner'), await join('admin')]
  const key = await createApiKey(scene.sql, { organizationId: scene.organizationId, userId: admin.userId, name: 'k' })
  await createInvitation({ ...deps, publicUrl: '' }, { actor: admin.actor, role: 'member', email: null })
  await removeMember(deps, { actor: owner.actor, userId: admin.userId })

  expect(await lastEntry(scene)).toMatchObject({ action: 'member.removed', details: { role: 'admin' } })
  expect(await listInvitations(deps.sql, { actor: owner.actor, limit: 100 })).toEqual([])
  // Back again, the old key stays what it was: revoked.
  await scene.sql`
    insert into members (organization_id, user_id, role) values (${scene.organizationId}, ${admin.userId}, 'admin')`
  expect(await findApiKey(scene.sql, key.token)).toBeNull()
})

describe('the last owner', () => {
  test('cannot leave, be demoted or be removed', async ({ world }) => {
    const { scene, deps, join } = await createStage(world)
    const { actor, userId } = await join('owner')
    await join('admin')
    expect(await codeOf(leaveOrganization(deps, { actor }))).toBe('conflict')
    expect(await codeOf(changeRole(deps, { actor, userId, role: 'admin' }))).toBe('conflict')
    expect(await codeOf(removeMember(deps, { actor, userId }))).toBe('conflict')
    expect((await rolesOf(scene))[userId]).toBe('owner')
    expect(scene.signals.access).toEqual([])
  })

  test('can leave once there is another', async ({ world }) => {
    const { scene, deps, join } = await createStage(world)
    const [owner, other] = [await join('owner'), await join('viewer')]
    await transferOwnership(deps, { actor: owner.actor, userId: other.userId })
    expect(await rolesOf(scene)).toEqual({ [owner.userId]: 'admin', [other.userId]: 'owner' })
    expect(await lastEntry(scene)).toMatchObject({ action: 'organization.transferred', target_id: other.userId })
    await leaveOrganization(deps, { actor: personIn(scene, { userId: owner.userId, role: 'admin' }) })
    expect(await rolesOf(scene)).toEqual({ [other.userId]: 'owner' })
    expect(await lastEntry(scene)).toMatchObject({ action: 'member.left', target_id: owner.userId })
  })

  describe('of two at the same time', () => {
    requirePostgres('two connections')

    for (const how of ['demote each other', 'demote themselves', 'leave', 'remove each other', 'transfer to a third']) {
      test(`who ${how} one stays`, async ({ world }) => {
        const { scene, join } = await createStage(world)
        const [one, two, third] = [await join('owner'), await join('owner'), await join('viewer')]
        const holder = await world.replica()
        const replicas = [await world.replica(), await world.replica()].map((replica) => ({
          sql: scopeToOrganization(replica.sql, scene.organizationId),
          signals: scene.signals,
        }))
        const held = await scene.hold(
          holder.sql,
          (tx) => tx`select 1 from organizations where id = ${scene.organizationId} for no key update`,
        )
        const step = (deps: (typeof replicas)[number], own: typeof one, other: typeof one) => {
          if (how === 'leave') return leaveOrganization(deps, { actor: own.actor })
          if (how === 'remove each other') return removeMember(deps, { actor: own.actor, userId: other.userId })
          if (how === 'transfer to a third') return transferOwnership(deps, { actor: own.actor, userId: third.userId })
          const { userId } = how === 'demote themselves' ? own : other
          return changeRole(deps, { actor: own.actor, userId, role: 'admin' })
        }
        const steps = [codeOf(step(replicas[0]!, one, two)), codeOf(step(replicas[1]!, two, one))]
        await scene.lockWaiters(2)
        await held.release()
        const outcomes = await Promise.all(steps)
        const owners = Object.values(await rolesOf(scene)).filter((role) => role === 'owner')
        expect(owners).toHaveLength(1)
        if (how !== 'transfer to a third') expect(outcomes.sort()).toEqual(['conflict', 'done'])
      })
    }
  })
})

test('ownership goes only to a member, by an owner in person', async ({ world }) => {
  const { scene, deps, join } = await createStage(world)
  const [owner, admin] = [await join('owner'), await join('admin')]
  const to = (actor = owner.actor, userId = admin.userId) => codeOf(transferOwnership(deps, { actor, userId }))
  expect(await to(owner.actor, 'nobody')).toBe('not_found')
  expect(await to(owner.actor, owner.userId)).toBe('conflict')
  expect(await to(admin.actor, owner.userId)).toBe('forbidden')
  expect(await to(personIn(scene, { ...owner, only: ['organization:delete'] }))).toBe('forbidden')
})

test('nobody can leave for somebody else: an organization key and a session token are no person', async ({ world }) => {
  const { deps, join } = await createStage(world)
  const { actor } = await join('admin')
  const own = { ...actor, kind: 'key' as const, userId: actor.credentialId }
  expect(await codeOf(leaveOrganization(deps, { actor: own }))).toBe('forbidden')
  expect(await codeOf(leaveOrganization(deps, { actor: { ...actor, kind: 'session', role: null } }))).toBe('forbidden')
})

test('members and invitations of another organization are unknown', async ({ world }) => {
  const [here, there] = [await createStage(world), await createStage(world)]
  const { actor } = await here.join('owner')
  const theirs = await there.join('member')
  const invitation = await createInvitation(
    { ...there.deps, publicUrl: '' },
    { actor: (await there.join('owner')).actor, role: 'member', email: null },
  )
  for (const sql of [here.deps.sql, here.scene.sql]) {
    const deps = { ...here.deps, sql }
    expect(await codeOf(removeMember(deps, { actor, userId: theirs.userId }))).toBe('not_found')
    expect(await codeOf(changeRole(deps, { actor, userId: theirs.userId, role: 'viewer' }))).toBe('not_found')
    expect(await codeOf(revokeInvitation(sql, { actor, invitationId: invitation.id }))).toBe('not_found')
    expect((await listMembers(sql, { actor, limit: 100 })).map((one) => one.userId)).toEqual([actor.userId])
    expect(await listInvitations(sql, { actor, limit: 100 })).toEqual([])
  }
  expect((await rolesOf(there.scene))[theirs.userId]).toBe('member')
})

test('members are listed with who they are, a page at a time', async ({ world }) => {
  const { deps, join } = await createStage(world)
  const made = [await join('owner'), await join('viewer'), await join('member')]
  const { actor } = made[0]!
  const sorted = made.map(({ userId }) => userId).sort()
  const first = await listMembers(deps.sql, { actor, limit: 2 })
  const rest = await listMembers(deps.sql, { actor, limit: 2, after: first[1]!.userId })
  expect([...first, ...rest].map(({ userId }) => userId)).toEqual(sorted)
  const owner = [...first, ...rest].find(({ userId }) => userId === actor.userId)
  expect(owner).toMatchObject({ role: 'owner', email: made[0]!.email, name: `Name of ${actor.userId}` })
})
