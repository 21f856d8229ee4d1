import { describe, expect } from 'vitest'
import { createScene, type Scene } from '../../tests/support/scene.ts'
import { requirePostgres, test } from '../../tests/support/world.ts'
import { inTransaction } from '../db/transaction.ts'
import { claimCappedRuns } from './capped-runs.ts'
import { claimPreferredRuns, claimReadyRuns } from './runs.ts'

requirePostgres('replicas claim at the same time, on connections of their own')

const CLAIM = { limit: 100, leaseMs: 60_000, organizationMax: 1_000, afterOrganization: '' }

async function setCap({ sql, organizationId }: Scene, runsMax: number | null) {
  await sql`
    insert into organization_limits (organization_id, runs_max) values (${organizationId}, ${runsMax})
    on conflict (organization_id) do update set runs_max = excluded.runs_max`
}

const ownOf = (scene: Scene, runs: { organizationId: string; id: string }[]) =>
  runs.filter((run) => run.organizationId === scene.organizationId)

async function running({ sql, organizationId }: Scene): Promise<number> {
  const [row] = await sql<{ n: number }[]>`
    select count(*)::int as n from runs where organization_id = ${organizationId} and state = 'running'`
  return row!.n
}

const postMany = (scene: Scene, count: number) =>
  Promise.all(Array.from({ length: count }, async () => scene.post(await scene.open())))

describe('the cap of an organization', () => {
  test('holds exactly, whoever claims, accepts and claims what was kept for it at the same time', async ({ world }) => {
    const scene = await createScene(world)
    await setCap(scene, 3)
    const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))
    await postMany(scene, 12)
    for (let round = 0; round < 8; round++) {
      const attempts = replicas.flatMap(({ sql }, at) => {
        const args = { ...CLAIM, replica: `replica-${at + 1}` }
        return [
          claimCappedRuns(sql, args),
          claimCappedRuns(sql, args),
          claimReadyRuns(sql, args),
          claimPreferredRuns(sql, args),
          scene.open().then(async (id) => {
            const { claimed } = await scene.post(id, {}, { claimHere: true, replica: args.replica })
            return claimed ? [claimed] : []
          }),
        ]
      })
      const claimed = ownOf(scene, (await Promise.all(attempts)).flat())
      expect(await running(scene)).toBe(3)
      expect(claimed).toHaveLength(round === 0 ? 3 : 1)
      // One of them ends, and one more may run.
      const [run] = await scene.sql<{ id: string; conversationId: string; fence: number }[]>`
        select id, conversation_id as "conversationId", fence from runs
        where organization_id = ${scene.organizationId} and state = 'running' order by random() limit 1`
      await scene.end({ ...run!, organizationId: scene.organizationId } as never)
    }
  })

  test('leaves what is above it waiting, whatever is kept for a replica', async ({ world }) => {
    const scene = await createScene(world)
    await setCap(scene, 1)
    const conversation = await scene.open()
    const { sql, organizationId } = scene
    await sql`
      insert into replicas (id, version, lease_until) values (${organizationId}, '1', now() + interval '1 hour')`
    world.defer(async () => sql`delete from replicas where id = ${organizationId}`)
    await sql`update conversations set worker_replica = ${organizationId} where id = ${conversation}`
    const kept = await scene.post(conversation)
    expect(await scene.stateOf(kept.runId)).toBe('delayed')
    const [other] = await postMany(scene, 1)

    // Its own replica takes what was kept for it first; the others find nothing that they may take.
    expect(ownOf(scene, await claimPreferredRuns(sql, { ...CLAIM, replica: organizationId }))).toEqual([])
    const [claimed] = ownOf(scene, await claimCappedRuns(sql, { ...CLAIM, replica: organizationId }))
    expect(claimed).toMatchObject({ id: kept.runId })
    expect(ownOf(scene, await claimCappedRuns(sql, { ...CLAIM, replica: 'replica-2' }))).toEqual([])
    expect(await scene.stateOf(other!.runId)).toBe('ready')
  })

  test('that is taken away leaves its runs to everybody', async ({ world }) => {
    const scene = await createScene(world)
    await setCap(scene, 1)
    await postMany(scene, 3)
    const args = { ...CLAIM, replica: 'replica-1' }
    expect(ownOf(scene, await claimReadyRuns(scene.sql, args))).toEqual([])
    await setCap(scene, null)
    expect(ownOf(scene, await claimReadyRuns(scene.sql, args))).toHaveLength(3)
  })

  test('of one organization neither helps nor hinders another', async ({ world }) => {
    const [capped, other, free] = [await createScene(world), await createScene(world), await createScene(world)]
    await setCap(capped, 2)
    await setCap(other, 5)
    for (const scene of [capped, other, free]) await postMany(scene, 6)
    const args = { ...CLAIM, replica: 'replica-1' }
    const claimed = await claimCappedRuns(capped.sql, args)
    expect([ownOf(capped, claimed), ownOf(other, claimed), ownOf(free, claimed)].map((runs) => runs.length)).toEqual([
      2, 5, 0,
    ])
    expect(ownOf(free, await claimReadyRuns(capped.sql, args))).toHaveLength(6)
  })
})

test('a replica that is stuck in its claim keeps the others waiting for a moment only', async ({ world }) => {
  const scene = await createScene(world)
  await setCap(scene, 3)
  await postMany(scene, 3)
  const stuck = await world.replica()
  const held = await scene.hold(
    stuck.sql,
    (tx) => tx`select 1 from organization_limits where organization_id = ${scene.organizationId} for no key update`,
  )
  expect(ownOf(scene, await claimCappedRuns(scene.sql, { ...CLAIM, replica: 'replica-1' }))).toEqual([])
  await held.release()
  expect(ownOf(scene, await claimCappedRuns(scene.sql, { ...CLAIM, replica: 'replica-1' }))).toHaveLength(3)
  // The bound was for that claim alone.
  const left = await inTransaction(scene.sql, (tx) => tx<{ lock_timeout: string }[]>`show lock_timeout`)
  expect(left).toEqual([{ lock_timeout: '0' }])
})
