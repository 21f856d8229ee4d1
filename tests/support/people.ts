import type { Sql } from '../../src/db/client.ts'
import type { Actor } from '../../src/domain/accounts/actor.ts'
import { type Permission, ROLES, type Role } from '../../src/domain/accounts/permissions.ts'
import type { World } from './world.ts'

interface Place {
  sql: Sql
  organizationId: string
}

/** Somebody with an account and no organization. */
export async function makeUser({ sql }: { sql: Sql }, world: Pick<World, 'unique' | 'defer'>) {
  const userId = world.unique('user')
  const email = `${userId}@example.com`
  await sql`insert into users (id, email, name) values (${userId}, ${email}, ${`Name of ${userId}`})`
  world.defer(async () => sql`delete from users where id = ${userId}`)
  return { userId, email }
}

/** A member of an organization, signed in. */
export async function makeMember(place: Place, world: Pick<World, 'unique' | 'defer'>, role: Role) {
  const user = await makeUser(place, world)
  const { organizationId } = place
  await place.sql`insert into members (organization_id, user_id, role) values (${organizationId}, ${user.userId}, ${role})`
  return { ...user, role, actor: personIn(place, { userId: user.userId, role }) }
}

/** A person as their browser session shows them; with `only`, a program that they allowed no more than that. */
export function personIn(
  { organizationId }: Pick<Place, 'organizationId'>,
  { userId, role, only }: { userId: string; role: Role; only?: Permission[] },
): Actor {
  return {
    kind: only ? 'client' : 'user',
    credentialId: `session-of-${userId}`,
    ...{ organizationId, organizationSlug: organizationId, userId, role },
    permissions: new Set(only ?? ROLES[role]),
    origin: { ip: '192.0.2.7', userAgent: 'test', requestId: 'req-test' },
  }
}
