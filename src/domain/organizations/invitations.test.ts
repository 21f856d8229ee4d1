import { describe, expect } from 'vitest'
import { makeMember, makeUser, personIn } from '../../../tests/support/people.ts'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../../tests/support/world.ts'
import { scopeToOrganization } from '../../db/tenant.ts'
import type { Actor } from '../accounts/actor.ts'
import { ROLE_NAMES, ROLES, type Role } from '../accounts/permissions.ts'
import { acceptInvitation } from './accept-invitation.ts'
import { createInvitation, type InvitationMail } from './create-invitation.ts'

const PUBLIC_URL = 'https://lobu.example.com'

async function createStage(world: World) {
  const scene = await createScene(world)
  const owner = await makeMember(scene, world, 'owner')
  const scoped = scopeToOrganization(scene.sql, scene.organizationId)
  const invite = (over: { actor?: Actor; role?: Role; email?: string | null } = {}) =>
    createInvitation(
      { sql: scoped, publicUrl: PUBLIC_URL },
      { actor: owner.actor, role: 'member', email: null, ...over },
    )
  const accept = (url: string, userId: string) => acceptInvitation(scene, { token: url.split('#token=')[1]!, userId })
  return { scene, scoped, owner, invite, accept }
}

async function roleOf({ sql, organizationId }: Scene, userId: string) {
  const rows = await sql<{ role: Role }[]>`
    select role from members where organization_id = ${organizationId} and user_id = ${userId}`
  return rows[0]?.role
}

async function actionsOf({ sql, organizationId }: Scene) {
  const rows = await sql<{ action: string }[]>`
    select action from audit_log where organization_id = ${organizationId} order by id`
  return rows.map(({ action }) => action)
}

test('whoever opens the link becomes a member with its role, and both are on record', async ({ world }) => {
  const { scene, invite, accept } = await createStage(world)
  const { userId } = await makeUser(scene, world)
  const { url, expiresAt, createdAt } = await invite({ role: 'admin' })
  expect(url).toMatch(/^https:\/\/lobu\.example\.com\/invite#token=[\w-]{43}$/)
  expect(expiresAt.getTime() - createdAt.getTime()).toBe(7 * 86_400_000)

  const { organizationId } = scene
  expect(await accept(url, userId)).toEqual({ organizationId, organizationSlug: organizationId, role: 'admin' })
  expect(await roleOf(scene, userId)).toBe('admin')
  expect(scene.signals.access).toHaveLength(1)
  expect(await actionsOf(scene)).toEqual(['invitation.created', 'invitation.accepted'])
})

test('the database keeps no token', async ({ world }) => {
  const { scene, invite } = await createStage(world)
  const { url } = await invite()
  const [row] = await scene.sql<{ all: string }[]>`
    select string_agg(i::text || a::text, ' ') as all from invitations i, audit_log a
    where i.organization_id = ${scene.organizationId} and a.organization_id = i.organization_id`
  expect(row!.all).not.toContain(url.split('=')[1])
})

describe('a link', () => {
  test('works once', async ({ world }) => {
    const { scene, invite, accept } = await createStage(world)
    const [first, second] = [await makeUser(scene, world), await makeUser(scene, world)]
    const { url } = await invite()
    await accept(url, first.userId)
    await expect(accept(url, second.userId)).rejects.toMatchObject({ code: 'not_found' })
    await scene.sql`delete from members where user_id = ${first.userId}`
    await expect(accept(url, first.userId)).rejects.toMatchObject({ code: 'not_found' })
  })

  test('does not work when it has expired or is made up', async ({ world }) => {
    const { scene, invite, accept } = await createStage(world)
    const { userId } = await makeUser(scene, world)
    const { id, url } = await invite()
    await scene.sql`update invitations set expires_at = now() where id = ${id}`
    for (const one of [url, `${url}x`, '#token=']) {
      await expect(accept(one, userId)).rejects.toMatchObject({ code: 'not_found' })
    }
    expect(await roleOf(scene, userId)).toBeUndefined()
  })

  test('for an address works for no other', async ({ world }) => {
    const { scene, invite, accept } = await createStage(world)
    const [meant, other] = [await makeUser(scene, world), await makeUser(scene, world)]
    const { url, email } = await invite({ email: meant.email.toUpperCase() })
    expect(email).toBe(meant.email)
    await expect(accept(url, other.userId)).rejects.toMatchObject({ code: 'forbidden' })
    expect((await accept(url, meant.userId)).role).toBe('member')
  })

  test('is kept by somebody who is a member already, whose role stays', async ({ world }) => {
    const { scene, owner, invite, accept } = await createStage(world)
    const { url } = await invite({ role: 'viewer' })
    await expect(accept(url, owner.userId)).rejects.toMatchObject({ code: 'conflict' })
    expect(await roleOf(scene, owner.userId)).toBe('owner')
    expect((await accept(url, (await makeUser(scene, world)).userId)).role).toBe('viewer')
  })

  test('gives nothing that its maker could not give any more', async ({ world }) => {
    const { scene, invite, accept } = await createStage(world)
    const { userId } = await makeUser(scene, world)
    for (const change of ['demoted', 'removed']) {
      const admin = await makeMember(scene, world, 'admin')
      const { url } = await invite({ actor: admin.actor, role: 'admin' })
      if (change === 'demoted') await scene.sql`update members set role = 'member' where user_id = ${admin.userId}`
      else await scene.sql`delete from members where user_id = ${admin.userId}`
      await expect(accept(url, userId), change).rejects.toMatchObject({ code: 'not_found' })
    }
  })

  test('cannot be made by somebody who was removed a moment ago', async ({ world }) => {
    const { scene, invite } = await createStage(world)
    const admin = await makeMember(scene, world, 'admin')
    await scene.sql`delete from members where user_id = ${admin.userId}`
    await expect(invite({ actor: admin.actor })).rejects.toMatchObject({ code: 'forbidden' })
    const key = { ...admin.actor, kind: 'key' as const, userId: 'key_of_all', credentialId: 'key_of_all' }
    expect((await invite({ actor: key })).role).toBe('member')
  })

  test('is replaced by a newer one for the same address', async ({ world }) => {
    const { scene, invite, accept } = await createStage(world)
    const { userId, email } = await makeUser(scene, world)
    const [older, newer] = [await invite({ email }), await invite({ email })]
    await expect(accept(older.url, userId)).rejects.toMatchObject({ code: 'not_found' })
    await accept(newer.url, userId)
    await expect(invite({ email })).rejects.toMatchObject({ code: 'conflict' })
  })
})

describe('at the same time', () => {
  requirePostgres('two connections')

  test('many people open one link, and one gets in', async ({ world }) => {
    const { scene, invite, accept } = await createStage(world)
    const people = await Promise.all(Array.from({ length: 6 }, () => makeUser(scene, world)))
    const { url } = await invite()
    const outcomes = await Promise.allSettled(people.map(({ userId }) => accept(url, userId)))
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    const joined = await scene.sql`
      select 1 from members where organization_id = ${scene.organizationId} and role = 'member'`
    expect(joined).toHaveLength(1)
  })
})

test('each role invites up to its own, and only those who may invite', async ({ world }) => {
  const { scene, invite } = await createStage(world)
  for (const own of ROLE_NAMES) {
    const { actor } = await makeMember(scene, world, own)
    for (const role of ROLE_NAMES) {
      const allowed = ROLES[own].includes('members:write') && ROLE_NAMES.indexOf(own) <= ROLE_NAMES.indexOf(role)
      const outcome = await invite({ actor, role }).then(
        () => 'invited',
        (error) => error.code,
      )
      expect(outcome, `${own} invites ${role}`).toBe(allowed ? 'invited' : 'forbidden')
    }
  }
})

test('a credential that is limited to managing members cannot make anybody more than itself', async ({ world }) => {
  const { scene, owner, invite } = await createStage(world)
  const actor = personIn(scene, { ...owner, only: ['members:write', 'members:read'] })
  await expect(invite({ actor, role: 'viewer' })).rejects.toMatchObject({ code: 'forbidden' })
})

test('the link is mailed to its address; a mail that fails leaves the link to the inviter', async ({ world }) => {
  const { scoped, owner } = await createStage(world)
  const sent: InvitationMail[] = []
  const mailing = (mailInvitation: (mail: InvitationMail) => Promise<void>, email: string | null) =>
    createInvitation(
      { sql: scoped, publicUrl: PUBLIC_URL, mailInvitation },
      { actor: owner.actor, role: 'member', email },
    )
  const good = await mailing(async (mail) => void sent.push(mail), 'ada@example.com')
  expect(good.mailed).toBe(true)
  expect(sent).toEqual([{ to: 'ada@example.com', url: good.url, organizationName: 'Test', expiresAt: good.expiresAt }])
  expect((await mailing(async () => Promise.reject(new Error('no')), 'bob@example.com')).mailed).toBe(false)
  expect((await mailing(async (mail) => void sent.push(mail), null)).mailed).toBe(false)
  expect(sent).toHaveLength(1)
})
