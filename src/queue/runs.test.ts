import { describe, expect } from 'vitest'
import { createScene, type Scene } from '../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../tests/support/world.ts'
import { endRun } from '../domain/runs/end.ts'
import { type ClaimedRun, claimPreferredRuns, claimReadyRuns, promoteDueRuns } from './runs.ts'

requirePostgres('replicas claim at the same time, on connections of their own')

const CLAIM = { replica: 'replica-2', limit: 100, leaseMs: 60_000, organizationMax: 1_000, afterOrganization: '' }

/** Posts one message to each of so many new conversations; returns the run ids. */
function postMany(scene: Scene, count: number): Promise<string[]> {
  return Promise.all(Array.from({ length: count }, async () => (await scene.post(await scene.open())).runId))
}

const idsOf = (runs: ClaimedRun[]) => runs.map((run) => run.id).sort()

/** Scenes in the order in which the database sorts their organizations. */
async function createSortedScenes(world: World, count: number): Promise<Scene[]> {
  const scenes = await Promise.all(Array.from({ length: count }, () => createScene(world)))
  const ids = scenes.map((scene) => scene.organizationId)
  const rows = await scenes[0]!.sql<{ id: string }[]>`select x as id from unnest(${ids}::text[]) x order by x`
  return rows.map((row) => scenes.find((scene) => scene.organizationId === row.id)!)
}

describe('claiming', () => {
  test('while one replica is still claiming, another gets other runs and does not wait', async ({ world }) => {
    const scene = await createScene(world)
    const ids = await postMany(scene, 4)
    const other = await world.replica()

    const mine: ClaimedRun[] = []
    const open = await scene.hold(scene.sql, async (tx) => {
      mine.push(...(await claimReadyRuns(tx, { ...CLAIM, replica: 'replica-1', limit: 2 })))
    })
    const theirs = await claimReadyRuns(other.sql, CLAIM)
    await open.release()

    expect(mine).toHaveLength(2)
    expect(theirs).toHaveLength(2)
    expect(idsOf([...mine, ...theirs])).toEqual([...ids].sort())
  })

  test('a run is claimed by one of many replicas that ask at once', async ({ world }) => {
    const scene = await createScene(world)
    const ids = await postMany(scene, 30)
    const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))

    const claims = await Promise.all(
      Array.from({ length: 12 }, (_, i) => claimReadyRuns(replicas[i % 3]!.sql, { ...CLAIM, limit: 4 })),
    )
    const left = await claimReadyRuns(scene.sql, CLAIM)

    expect(idsOf([...claims.flat(), ...left])).toEqual([...ids].sort())
    for (const claim of claims) expect(claim.length).toBeLessThanOrEqual(4)
  })

  test('only the oldest unfinished message of a conversation can be claimed', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    const first = await scene.post(conversation)
    const second = await scene.post(conversation)

    const run = await scene.claimOne()
    expect(run.id).toBe(first.runId)
    expect(await scene.claim()).toEqual([])
    await scene.end(run)
    expect((await scene.claimOne()).id).toBe(second.runId)
  })

  test('200 messages of 20 conversations are worked on in order, one at a time each, by three replicas', async ({
    world,
  }) => {
    const scene = await createScene(world)
    const conversations = await Promise.all(Array.from({ length: 20 }, () => scene.open()))
    const accepted: Record<string, string[]> = {}
    for (let i = 0; i < 10; i++) {
      const round = await Promise.all(conversations.map((conversation) => scene.post(conversation)))
      round.forEach(({ runId }, at) => {
        accepted[conversations[at]!] = [...(accepted[conversations[at]!] ?? []), runId]
      })
    }
    const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))
    const started: Record<string, string[]> = {}
    const running = new Set<string>()
    let ended = 0

    await Promise.all(
      replicas.map(async ({ sql }, index) => {
        while (ended < 200) {
          const claimed = await claimReadyRuns(sql, { ...CLAIM, replica: `replica-${index}`, limit: 3 })
          for (const run of claimed) {
            expect(running, 'two runs of one conversation').not.toContain(run.conversationId)
            running.add(run.conversationId)
            started[run.conversationId] = [...(started[run.conversationId] ?? []), run.id]
          }
          for (const run of claimed) {
            running.delete(run.conversationId)
            await endRun({ sql, signals: scene.signals }, { ...run, status: 'completed', text: '' })
            ended++
          }
        }
      }),
    )

    expect(started).toEqual(accepted)
  })
})

describe('fairness', () => {
  test('200 ready runs of one organization do not keep the only run of another out of the next claim', async ({
    world,
  }) => {
    const [first, second] = await createSortedScenes(world, 2)
    await postMany(first!, 200)
    const [single] = await postMany(second!, 1)

    const claimed = await claimReadyRuns(first!.sql, { ...CLAIM, limit: 2 })
    expect(idsOf(claimed)).toContain(single)
  })

  test('with one free worker, organizations take turns', async ({ world }) => {
    const scenes = await createSortedScenes(world, 3)
    for (const scene of scenes) await postMany(scene, 2)

    const order: string[] = []
    let afterOrganization = ''
    for (let i = 0; i < 3; i++) {
      const [run] = await claimReadyRuns(scenes[0]!.sql, { ...CLAIM, limit: 1, afterOrganization })
      afterOrganization = run!.organizationId
      order.push(afterOrganization)
    }
    expect(order).toEqual(scenes.map((scene) => scene.organizationId))
  })

  test('an organization gets no more running than its cap', async ({ world }) => {
    const scene = await createScene(world)
    await postMany(scene, 5)

    const claimed = await scene.claim({ organizationMax: 3 })
    expect(claimed).toHaveLength(3)
    expect(await scene.claim({ organizationMax: 3 })).toEqual([])
    await scene.end(claimed[0]!)
    expect(await scene.claim({ organizationMax: 3 })).toHaveLength(1)
  })

  test('a replica that accepts a message itself keeps to the cap as well', async ({ world }) => {
    const scene = await createScene(world)
    const here = { claimHere: true, organizationMax: 2 }
    const accepted = []
    for (let i = 0; i < 3; i++) accepted.push(await scene.post(await scene.open(), {}, here))

    expect(accepted.map(({ claimed }) => claimed !== null)).toEqual([true, true, false])
    expect(await scene.claim({ organizationMax: 2 })).toEqual([])
    expect(scene.signals.ready).toHaveLength(1)
    await scene.end(accepted[0]!.claimed!)
    expect((await scene.claimOne({ organizationMax: 2 })).id).toBe(accepted[2]!.runId)
  })

  test('an organization at its cap takes no place from the others', async ({ world }) => {
    const [capped, other] = await createSortedScenes(world, 2)
    await postMany(capped!, 3)
    await capped!.claim({ organizationMax: 1 })
    const [waiting] = await postMany(other!, 1)

    const claim = { ...CLAIM, limit: 1, organizationMax: 1 }
    expect(idsOf(await claimReadyRuns(other!.sql, claim))).toEqual([waiting])
  })
})

describe('a run kept for the replica that has the worker', () => {
  async function postPreferred(scene: Scene) {
    const conversation = await scene.open()
    await scene.sql`insert into replicas (id, version, lease_until) values ('warm', '1', now() + interval '1 minute')
      on conflict do nothing`
    await scene.sql`update conversations set worker_replica = 'warm' where id = ${conversation}`
    return (preferredMs: number) => scene.post(conversation, {}, { preferredMs, claimHere: true })
  }

  test('is claimed by that one alone until its time is over', async ({ world }) => {
    const scene = await createScene(world)
    const accepted = await (await postPreferred(scene))(60_000)

    expect(accepted.claimed).toBeNull()
    expect(scene.signals.ready).toEqual(['warm'])
    await promoteDueRuns(scene.sql)
    expect(await scene.claim({ replica: 'cold' })).toEqual([])
    expect(await claimPreferredRuns(scene.sql, { ...CLAIM, replica: 'cold' })).toEqual([])
    const claimed = await claimPreferredRuns(scene.sql, { ...CLAIM, replica: 'warm' })
    expect(claimed).toMatchObject([{ id: accepted.runId, fence: 1, attempt: 1 }])
  })

  test('is left by that one while its organization is at its cap', async ({ world }) => {
    const scene = await createScene(world)
    const { runId } = await (await postPreferred(scene))(60_000)
    const other = await scene.start(await scene.open())
    const claim = () => claimPreferredRuns(scene.sql, { ...CLAIM, replica: 'warm', organizationMax: 1 })

    expect(await claim()).toEqual([])
    await scene.end(other)
    expect(idsOf(await claim())).toEqual([runId])
  })

  test('goes to any replica once its time is over', async ({ world }) => {
    const scene = await createScene(world)
    const accepted = await (await postPreferred(scene))(0)

    expect(await promoteDueRuns(scene.sql)).toBe(1)
    expect(await claimPreferredRuns(scene.sql, { ...CLAIM, replica: 'warm' })).toEqual([])
    expect((await scene.claimOne({ replica: 'cold' })).id).toBe(accepted.runId)
  })

  test('is not kept for a replica that is gone', async ({ world }) => {
    const scene = await createScene(world)
    const postNow = await postPreferred(scene)
    await scene.sql`update replicas set lease_until = now() - interval '1 second' where id = 'warm'`

    expect((await postNow(60_000)).claimed).not.toBeNull()
  })
})
