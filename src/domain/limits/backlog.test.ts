import { describe, expect } from 'vitest'
import { createScene, type Scene, until } from '../../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../../tests/support/world.ts'
import { type PostMessage, postMessage } from '../messages/post.ts'
import { createBacklog } from './backlog.ts'

requirePostgres('three replicas share it')

const OPTIONS = { replica: 'replica-1', leaseMs: 60_000, depthMax: 1_000, organizationMax: 100, workerIdleMs: 60_000 }
const RUNNER = { reserve: () => false, settle() {}, hasWorker: () => false }
const BUDGETS = { findExhausted: async () => null }

/** Three replicas that let in no more than `max` together; each message goes to the next of them. */
async function createCluster(world: World, scene: Scene, max: number) {
  const replicas = await Promise.all([world.replica(), world.replica(), world.replica()])
  const ways = replicas.map(({ sql }) => ({ sql, backlog: createBacklog({ sql }, { max }) }))
  let next = 0
  return (conversationId: string, over: Partial<PostMessage> = {}) => {
    const { sql, backlog } = ways[next++ % ways.length]!
    const message = { actor: scene.actor, conversationId, content: 'hello', onBusy: 'enqueue' as const, origin: {} }
    return postMessage(
      { sql, backlog, signals: scene.signals, runner: RUNNER, budgets: BUDGETS },
      { ...message, files: [], ...over },
      OPTIONS,
    )
  }
}

const openRuns = async ({ sql, organizationId }: Scene) => {
  const [row] = await sql<{ n: number }[]>`
    select count(*)::int as n from runs where organization_id = ${organizationId} and ended_at is null`
  return row!.n
}

describe('an organization', () => {
  test('cannot fill the queue through many conversations, whichever replica it asks', async ({ world }) => {
    const [scene, other] = [await createScene(world), await createScene(world)]
    const post = await createCluster(world, scene, 40)
    const conversations = await Promise.all(Array.from({ length: 10 }, () => scene.open()))
    const codes: string[] = []
    for (let n = 0; n < 90; n++) {
      const refusal = await post(conversations[n % 10]!).then(
        () => null,
        (error) => error,
      )
      codes.push(refusal?.code ?? 'ok')
      if (refusal) expect(refusal.retryAfterSeconds).toBeGreaterThan(0)
    }
    expect(await openRuns(scene)).toBe(40)
    expect(codes.filter((code) => code === 'ok')).toHaveLength(40)
    expect(new Set(codes)).toEqual(new Set(['ok', 'queue_full']))
    // A neighbour has its own.
    const neighbours = await createCluster(world, other, 40)
    await neighbours(await other.open())
  })

  test('that is full gets room as its turns end, and what was accepted before keeps its answer', async ({ world }) => {
    const scene = await createScene(world)
    const post = await createCluster(world, scene, 2)
    const conversations = [await scene.open(), await scene.open(), await scene.open()] as const
    const first = await post(conversations[0], { messageId: 'early' })
    await post(conversations[1])
    await expect(post(conversations[2])).rejects.toMatchObject({ code: 'queue_full' })
    const again = await post(conversations[0], { messageId: 'early' })
    expect(again).toMatchObject({ runId: first.runId, duplicate: true })

    const claimed = (await scene.claim()).filter((run) => run.organizationId === scene.organizationId)
    await scene.end(claimed[0]!)
    await until(async () => void (await post(conversations[2])))
    expect(await openRuns(scene)).toBe(2)
  })
})

test('a count is taken now and then, not with every message', async ({ world }) => {
  const scene = await createScene(world)
  let asked = 0
  const counting = new Proxy(scene.sql, {
    apply(target, self, args) {
      asked++
      return Reflect.apply(target as never, self, args)
    },
  })
  const backlog = createBacklog({ sql: counting }, { max: 100_000 })
  await Promise.all(Array.from({ length: 50 }, () => backlog.admit(scene.organizationId)))
  for (let n = 0; n < 1_000; n++) await backlog.admit(scene.organizationId)
  expect(asked).toBeLessThan(20)
})
