import { expect } from 'vitest'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import type { Sql } from '../../db/client.ts'
import { createAgent } from '../agents/agents.ts'
import { createKey } from '../keys/create.ts'
import { createInvitation } from '../organizations/create-invitation.ts'
import { ROOM } from './room.ts'

requirePostgres('those who come at once have connections of their own')

const FIELDS = { name: 'An agent', description: '', model: null, instructions: '' }

const MAKERS: Record<keyof typeof ROOM, (sql: Sql, scene: Scene, n: number) => Promise<unknown>> = {
  agents: (sql, { actor }, n) => createAgent(sql, { actor, agentId: `late-${n}`, fields: FIELDS }),
  keys: (sql, { actor }, n) =>
    createKey(sql, { actor, name: `late ${n}`, scope: 'agents:read', expiresAt: null, ofOrganization: true }),
  invitations: (sql, { actor, organizationId }) =>
    createInvitation(
      { sql, publicUrl: 'https://lobu.example.com' },
      { actor: { ...actor, userId: organizationId, credentialId: organizationId }, role: 'viewer', email: null },
    ),
}

/** Leaves room for two more. */
const FILLERS: Record<keyof typeof ROOM, (scene: Scene) => Promise<unknown>> = {
  agents: ({ sql, organizationId }) => sql`
    insert into agents (organization_id, id, name) select ${organizationId}, 'agent-' || n, 'n'
    from generate_series(1, ${ROOM.agents} - 2 - (
      select count(*)::int from agents where organization_id = ${organizationId})) n`,
  keys: ({ sql, organizationId }) => sql`
    insert into api_keys (organization_id, id, name, token_hash, token_prefix, revoked_at, expires_at)
    select ${organizationId}, ${organizationId} || n, 'n', ${organizationId} || n, 'lobu_', case when n % 3 = 1 then now() end,
      case when n % 3 = 2 then now() - interval '1 day' end
    from generate_series(1, 3 * (${ROOM.keys} - 2)) n`,
  invitations: ({ sql, organizationId }) => sql`
    insert into invitations (organization_id, id, role, token_hash, expires_at, revoked_at)
    select ${organizationId}, ${organizationId} || n, 'viewer', ${organizationId} || n,
      now() + interval '1 day' * (case when n % 3 = 2 then -1 else 1 end), case when n % 3 = 1 then now() end
    from generate_series(1, 3 * (${ROOM.invitations} - 2)) n`,
}

test.for(Object.keys(ROOM) as (keyof typeof ROOM)[])(
  'of %s an organization has as many as it may, however many are made at once',
  async (of, { world }) => {
    const scene = await createScene(world)
    await FILLERS[of](scene)
    const replicas = await Promise.all([world.replica(), world.replica(), world.replica()])
    const outcomes = await Promise.allSettled(
      Array.from({ length: 6 }, (_, n) => MAKERS[of](replicas[n % replicas.length]!.sql, scene, n)),
    )
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(2)
    for (const one of outcomes) if (one.status === 'rejected') expect(one.reason.code).toBe('limit_reached')
    await expect(MAKERS[of](scene.sql, scene, 9)).rejects.toMatchObject({ code: 'limit_reached' })
  },
)

test('an agent that is there is the answer also where there is no room for another', async ({ world }) => {
  const scene = await createScene(world)
  const fields = { ...FIELDS, name: 'Early' }
  await createAgent(scene.sql, { actor: scene.actor, agentId: 'early', fields })
  await FILLERS.agents(scene)
  await MAKERS.agents(scene.sql, scene, 1)
  await MAKERS.agents(scene.sql, scene, 2)
  const again = await createAgent(scene.sql, { actor: scene.actor, agentId: 'early', fields })
  expect(again).toMatchObject({ created: false, agent: { name: 'Early' } })
})
