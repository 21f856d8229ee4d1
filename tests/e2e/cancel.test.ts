import { expect } from 'vitest'
import { findFaults } from '../support/checker.ts'
import { type Cluster, type Conversation, test } from '../support/cluster.ts'
import type { Follower } from '../support/follower.ts'
import { requireProc, until } from '../support/gateway.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('three replicas share it')
requireProc()

// Without spare workers, every worker process is one that is at work or has been.
test.override('clusterOptions', { replicas: 3, env: { WORKERS_WARM: '0', WORKER_IDLE_SECONDS: '1' } })

/** Goes on for minutes, so that no test can take its end for the effect of a cancel. */
const LONG = '/words 50000 /delay 10'

interface Sent {
  messageId: string
  runId: string
}

const workersOf = (cluster: Cluster) => cluster.replicas.flatMap((gateway) => gateway.workers())

/** The one end that a cancelled message has, and no word of it behind the acknowledgement. */
async function expectCancelled(args: { follower: Follower; sent: Sent; acknowledgedAt: number }) {
  const { follower, sent, acknowledgedAt } = args
  const end = await follower.completed(sent.messageId)
  const acknowledged = [{ messageId: sent.messageId, status: 'cancelled' as const }]
  expect(findFaults([{ name: 'it', acknowledged, events: follower.events(), after: 0 }])).toEqual([])
  // What was said before may still be on its way to the client; nothing was said afterwards.
  const said = follower.events().filter(({ name, data }) => name === 'output' && data.messageId === sent.messageId)
  expect(said.filter(({ data }) => data.timestamp > acknowledgedAt)).toEqual([])
  return end
}

test('a cancel at any moment, on another replica, is the end: no word behind it, and no process', async ({
  cluster,
}) => {
  for (let wave = 0; wave < 3; wave++) {
    const cancelled = await Promise.all(
      Array.from({ length: 6 }, (_, at) => cancelAfter(cluster, at === 0 ? 0 : cluster.random.int(0, 500))),
    )
    await until(() => workersOf(cluster).length === 0, 'the processes of the cancelled runs are gone')
    await Promise.all(cancelled.map(expectOver))
  }
})

/** Starts a turn on one replica and cancels it on another after so many milliseconds. */
async function cancelAfter(cluster: Cluster, offsetMs: number) {
  const [here, there] = cluster.random.shuffle(cluster.replicas)
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const posted = await conversation.post(LONG, { at: here!.url })
  const { messageId, runId } = posted.body as unknown as Sent
  await new Promise((resolve) => setTimeout(resolve, offsetMs))
  const target = cluster.random.pick([{ runId }, { messageId }, {}])
  const cancelled = await conversation.cancel(target, { at: there!.url })
  const acknowledgedAt = Date.now()
  expect(cancelled.body, `after ${offsetMs} ms`).toEqual({ success: true, cancelled: [{ runId, messageId }] })
  const end = await expectCancelled({ follower, sent: { messageId, runId }, acknowledgedAt })
  const run = await cluster.call('GET', `/api/v1/runs/${runId}`)
  expect(run.body).toMatchObject({ status: 'cancelled', result: end.data.finalText })
  return { conversation, follower }
}

/** A second cancel finds nothing, and the next message is answered. */
async function expectOver({ conversation, follower }: { conversation: Conversation; follower: Follower }) {
  expect((await conversation.cancel()).body).toEqual({ success: true, cancelled: [] })
  const next = await conversation.send('/echo next')
  expect((await follower.completed(next.messageId)).data.finalText).toBe('next')
  await follower.stop()
}

test('a message that waits is cancelled before it starts, and what runs goes on', async ({ cluster }) => {
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const first = await conversation.send('/echo first /words 40 /delay 10')
  const second = await conversation.send('/echo never')
  const third = await conversation.send('/echo third')
  const answer = await conversation.cancel({ messageId: second.messageId })
  expect(answer.body.cancelled).toEqual([{ runId: second.runId, messageId: second.messageId }])
  expect((await follower.completed(second.messageId)).data).toMatchObject({ status: 'cancelled', finalText: '' })
  expect((await follower.completed(first.messageId)).data.status).toBe('completed')
  expect((await follower.completed(third.messageId)).data.finalText).toBe('third')
  expect(follower.events().some(({ data }) => JSON.stringify(data).includes('never'))).toBe(false)
  await follower.stop()
})

test('a cancel without a target ends everything that is unfinished, once', async ({ cluster }) => {
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const sent: Sent[] = []
  for (let at = 0; at < 4; at++) sent.push(await conversation.send(LONG))
  await follower.streamed(sent[0]!.messageId, 5)
  const answers = await Promise.all(Array.from({ length: 6 }, () => conversation.cancel()))
  const cancelled = answers.flatMap(({ body }) => body.cancelled as Sent[])
  expect(cancelled.map(({ runId }) => runId).sort()).toEqual(sent.map(({ runId }) => runId).sort())
  await Promise.all(sent.map(({ messageId }) => follower.completed(messageId)))
  expect(follower.events().filter(({ name }) => name === 'complete')).toHaveLength(4)
  await follower.stop()
})

test('a run that has ended stays as it ended, and an unknown one is said to be unknown', async ({ cluster }) => {
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const sent = await conversation.send('/echo done')
  await follower.completed(sent.messageId)
  expect((await conversation.cancel({ runId: sent.runId })).body).toEqual({ success: true, cancelled: [] })
  expect((await cluster.call('GET', `/api/v1/runs/${sent.runId}`)).body.status).toBe('completed')
  expect(await conversation.cancel({ runId: 'nonsense' })).toMatchObject({ status: 404, body: { code: 'not_found' } })
  const other = await cluster.open()
  expect((await other.cancel({ runId: sent.runId })).status).toBe(404)
  await follower.stop()
})

test('DELETE ends the runs, closes every stream on every replica, and the id is unknown', async ({ cluster }) => {
  const conversation: Conversation = await cluster.open()
  const followers = await Promise.all(cluster.replicas.map(({ url }) => conversation.follow({ at: url })))
  const running = await conversation.send(LONG)
  const waiting = await conversation.send('/echo waiting')
  await followers[0]!.streamed(running.messageId, 5)
  const path = `/api/v1/agents/${conversation.id}`
  expect(await cluster.call('DELETE', path)).toMatchObject({ status: 200, body: { success: true } })
  for (const follower of followers) {
    await until(follower.isOver, 'the stream is closed')
    const last = follower.events().at(-1)
    expect([last?.name, last?.data]).toEqual(['closed', { reason: 'ended' }])
    expect(follower.connections).toHaveLength(1)
    const ends = follower.events().filter(({ name }) => name === 'complete')
    expect(ends.map(({ data }) => [data.messageId, data.status]).sort()).toEqual(
      [running, waiting].map(({ messageId }) => [messageId, 'cancelled']).sort(),
    )
  }
  await until(() => workersOf(cluster).length === 0, 'its worker is gone')
  for (const { url: at } of cluster.replicas) {
    expect((await cluster.call('GET', path, { at })).status).toBe(404)
    expect((await conversation.post('/echo again', { at })).status).toBe(404)
    expect((await cluster.call('GET', `${path}/events`, { at, token: conversation.token })).status).toBe(404)
  }
  expect((await cluster.call('DELETE', path)).status).toBe(404)
})
