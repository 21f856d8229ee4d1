import { expect } from 'vitest'
import { type Acknowledged, findFaults, type Seen } from '../support/checker.ts'
import { type Cluster, test } from '../support/cluster.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('three replicas share it')

const CONVERSATIONS = 100
/** Clients at work at once. */
const CLIENTS = 24

// Fewer turns at once than clients, so that some wait to be claimed. Nobody dies here, so a lease that lapses on a busy
// machine would only blur what is looked at.
test.override('clusterOptions', { replicas: 3, env: { WORKERS_BUSY_MAX: '6', RUN_LEASE_SECONDS: '15' } })

test('a hundred conversations over three replicas, with every request to any of them, lose and repeat nothing', async ({
  cluster,
}) => {
  const seen: Seen[] = []
  let next = 0
  await Promise.all(
    Array.from({ length: CLIENTS }, async () => {
      while (next < CONVERSATIONS) seen.push(await converse(cluster, `c${next++}`))
    }),
  )
  expect(findFaults(seen)).toEqual([])
  expect(seen).toHaveLength(CONVERSATIONS)
  // No two replicas have worked on the same turn.
  const again = await cluster.database.sql`select id, attempt, fence from runs where attempt <> 1 or fence <> 1`
  expect(again).toEqual([])
  const served = [...cluster.proxy.counts().values()]
  expect(served.every((count) => count > CONVERSATIONS / 2)).toBe(true)
  expect(served).toHaveLength(3)
}, 240_000)

/** One client: one to three turns, and for each the stream opened before, after, or in the same moment as the message. */
async function converse({ random, open }: Cluster, name: string): Promise<Seen> {
  const conversation = await open({ thread: name })
  const seen: Seen & { acknowledged: Acknowledged[] } = { name, acknowledged: [], events: [], faults: [], after: 0 }
  for (let turn = 1, turns = random.int(1, 3); turn <= turns; turn++) {
    const marker = `marker-${name}-${turn}`
    const content = `/echo ${marker} /words ${random.int(1, 60)} /delay ${random.pick([0, 0, 2, 10])}`
    // A client that stays keeps its place; a fresh one must see this turn alone, from its first event on.
    const post = async () => {
      const { messageId } = await conversation.send(content)
      seen.acknowledged.push({ messageId, marker })
      return messageId
    }
    const order = random.pick(['before', 'after', 'together'])
    const early = order === 'before' ? await conversation.follow() : undefined
    const [messageId, follower] =
      order === 'together'
        ? await Promise.all([post(), conversation.follow()])
        : [await post(), early ?? (await conversation.follow())]
    await follower.completed(messageId)
    await follower.stop()
    seen.events.push(...follower.events())
    seen.faults?.push(...follower.faults)
  }
  return seen
}
