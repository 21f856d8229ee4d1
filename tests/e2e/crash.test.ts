import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, onTestFinished } from 'vitest'
import { findFaults } from '../support/checker.ts'
import { type Cluster, type Conversation, test } from '../support/cluster.ts'
import { type Follower, streamedText } from '../support/follower.ts'
import { type Gateway, isAlive, killProcess, requireProc, until } from '../support/gateway.ts'
import { connectSse } from '../support/sse-client.ts'
import { wordsUpTo } from '../support/words.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('several replicas share it')
requireProc()

// Without spare workers, the only worker process of a replica is the one that is at work.
test.override('clusterOptions', { replicas: 3, env: { WORKERS_WARM: '0', WORKER_IDLE_SECONDS: '1' } })

const WORDS = 80
const SLOW = `/words ${WORDS} /delay 20`
const WHOLE = wordsUpTo(WORDS)

interface Turn {
  conversation: Conversation
  follower: Follower
  messageId: string
  runId: string
}

/** A slow turn that has been streamed to a client for so many words. */
async function startTurn(cluster: Cluster, words: number): Promise<Turn> {
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const { messageId, runId } = await conversation.send(SLOW)
  await follower.streamed(messageId, words)
  return { conversation, follower, messageId, runId }
}

/** The replica that works on the only turn there is, and its worker. */
function findWorker(cluster: Cluster): Promise<{ gateway: Gateway; worker: number }> {
  return until(() => {
    const [found, ...more] = cluster.replicas.flatMap((gateway) =>
      gateway.workers().map((worker) => ({ gateway, worker })),
    )
    return more.length === 0 ? found : undefined
  }, 'one worker is at work')
}

/** Waits for the end and holds what the client saw against every promise. */
async function expectWhole({ follower, conversation, messageId }: Turn) {
  await follower.completed(messageId)
  const seen = {
    name: conversation.id,
    acknowledged: [{ messageId, answer: WHOLE }],
    events: follower.events(),
    faults: follower.faults,
    after: 0,
  }
  expect(findFaults([seen])).toEqual([])
}

/** The events of a conversation as the log has them now, read by a client that was never there. */
async function expectOneEnd(cluster: Cluster, turn: Turn) {
  const run = await cluster.call('GET', `/api/v1/runs/${turn.runId}`)
  expect(run.body).toMatchObject({ status: 'completed', result: WHOLE })
  const late = await turn.conversation.follow({ lastEventId: 0 })
  await expectWhole({ ...turn, follower: late })
  await late.stop()
  const history = await cluster.call('GET', `/api/v1/agents/${turn.conversation.id}/history/session/messages`)
  const said = (history.body.messages as { role: string; content: string }[]).map(({ role, content }) => [
    role,
    content,
  ])
  // A turn that was cut off is kept in the steps it took; what was said is the same.
  expect(said[0]).toEqual(['user', SLOW])
  expect(said.slice(1).map(([role]) => role)).toEqual(said.slice(1).map(() => 'assistant'))
  expect(
    said
      .slice(1)
      .map(([, content]) => content)
      .join(''),
  ).toBe(WHOLE)
}

/** A model that begins an answer and, when it is let, withholds the rest. */
async function startWithholdingProvider() {
  const { promise: allowed, resolve: answer } = Promise.withResolvers<void>()
  let calls = 0
  const server = createServer(async (req, res) => {
    calls++
    req.resume()
    const send = (delta: object, reason: string | null) =>
      res.write(
        `data: ${JSON.stringify({ id: 'c', object: 'chat.completion.chunk', created: 1, model: 'm', choices: [{ index: 0, delta, finish_reason: reason }] })}\n\n`,
      )
    res.writeHead(200, { 'content-type': 'text/event-stream' })
    send({ role: 'assistant', content: 'I would' }, null)
    await allowed
    send({}, 'content_filter')
    res.end('data: [DONE]\n\n')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    answer,
    calls: () => calls,
    async stop() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

// 7, 8: the row of a stream outlives its replica for a moment, and says nothing about what a client has
test('a turn that ends just after the replica of its only stream was killed is shown to the client that comes back', async ({
  cluster,
}) => {
  const [victim, other] = cluster.replicas.filter((gateway) => !gateway.hasExited())
  const conversation = await cluster.open()
  const lost = await connectSse(conversation.eventsUrl(victim!.url), {
    headers: { authorization: `Bearer ${conversation.token}` },
  })
  await lost.waitFor(({ name }) => name === 'connected')
  victim!.signal('SIGKILL')
  await victim!.exited
  cluster.balance()
  const posted = await conversation.post('/echo here', { at: other!.url })
  await until(async () => {
    const rows = await cluster.database
      .sql`select 1 from runs where id = ${posted.body.runId as string} and ended_at is not null`
    return rows.length > 0
  }, 'it has ended')
  const follower = await conversation.follow()
  const messageId = String(posted.body.messageId)
  await follower.completed(messageId)
  const acknowledged = [{ messageId, answer: 'here' }]
  expect(findFaults([{ name: 'back', acknowledged, events: follower.events(), after: 0 }])).toEqual([])
  await follower.stop()
  await cluster.add()
})

// 13, 18: what the model said of its step must not be lost with the replica that heard it
test('an answer that was withheld ends as failed, also when its replica died before it could say so', async ({
  cluster,
}) => {
  const provider = await startWithholdingProvider()
  onTestFinished(provider.stop)
  const env = { OPENAI_COMPATIBLE_BASE_URL: provider.url }
  const gateways = [await cluster.add(env), await cluster.add(env)]
  const others = cluster.replicas.filter((gateway) => !gateway.hasExited() && !gateways.includes(gateway))
  for (const gateway of others) gateway.signal('SIGTERM')
  await Promise.all(others.map((gateway) => gateway.exited))
  cluster.balance()
  const conversation = await cluster.open({ model: 'openai-compatible/m' })
  const follower = await conversation.follow({ lastEventId: 0 })
  // Steps are saved without the lock that an end needs: with it held, the end cannot come between the two.
  const messageId = await cluster.database.sql.begin(async (tx) => {
    const { messageId, runId } = await conversation.send('hello')
    await until(
      async () =>
        (await cluster.database.sql`select 1 from event_log where conversation_id = ${conversation.id}`).length > 0,
      'it is being worked on',
    )
    await tx`select 1 from conversations where id = ${conversation.id} for no key update`
    provider.answer()
    await until(
      async () => (await cluster.database.sql`select 1 from usage_steps where run_id = ${runId}`).length > 0,
      'its step is saved',
    )
    const holder = gateways.find((gateway) => gateway.workers().length > 0)!
    holder.signal('SIGKILL')
    await holder.exited
    cluster.balance()
    return messageId
  })
  const end = await follower.completed(messageId)
  expect(end.data).toMatchObject({ status: 'failed' })
  const error = follower.events().find(({ name }) => name === 'error')
  expect(error?.data).toMatchObject({ code: 'model_content_filtered', messageId })
  expect(provider.calls()).toBe(1)
  await follower.stop()
  await Promise.all([cluster.add(), cluster.add()])
})

test('a turn whose worker is killed goes on behind the last word that was streamed', async ({ cluster }) => {
  for (const words of [1, 20, 60]) {
    const turn = await startTurn(cluster, words)
    const { worker } = await findWorker(cluster)
    killProcess(worker)
    await expectWhole(turn)
    await expectOneEnd(cluster, turn)
    await turn.follower.stop()
    await until(() => cluster.replicas.every((gateway) => gateway.workers().length === 0), 'idle workers have left')
  }
})

test('a turn whose spawner is killed, and its worker with it, goes on in the same way, and another spawner serves', async ({
  cluster,
}) => {
  const turn = await startTurn(cluster, 20)
  const { gateway, worker } = await findWorker(cluster)
  const spawner = gateway.spawner()!
  killProcess(spawner)
  await until(() => !isAlive(worker), 'its worker is gone with it')
  await expectWhole(turn)
  await expectOneEnd(cluster, turn)
  await turn.follower.stop()
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const posted = await conversation.post('/echo here', { at: gateway.url })
  await follower.completed(String(posted.body.messageId))
  await follower.stop()
  expect(gateway.spawner()).toEqual(expect.any(Number))
  expect(gateway.spawner()).not.toBe(spawner)
})

test('a turn whose replica is killed is taken over by another, and leaves no worker behind', async ({ cluster }) => {
  const turn = await startTurn(cluster, 20)
  const { gateway, worker } = await findWorker(cluster)
  gateway.signal('SIGKILL')
  await gateway.exited
  cluster.balance()
  await until(() => !isAlive(worker), 'the worker of the killed replica is gone')
  await expectWhole(turn)
  await expectOneEnd(cluster, turn)
  await turn.follower.stop()
  await cluster.add()
})

test('a replica that was frozen past its lease changes nothing when it wakes up', async ({ cluster }) => {
  const turn = await startTurn(cluster, 20)
  const { gateway, worker } = await findWorker(cluster)
  gateway.signal('SIGSTOP')
  cluster.balance({ without: [gateway] })
  // A frozen machine closes no connection: its clients give up by themselves.
  turn.follower.connections.at(-1)?.cut()
  await expectWhole(turn)
  const { lastEventId } = turn.follower.connections.at(-1)!
  gateway.signal('SIGCONT')
  // It has seen that it lost the run when it has ended the worker.
  await until(() => !isAlive(worker), 'the worker of the frozen replica is gone')
  await gateway.ready()
  await expectOneEnd(cluster, turn)
  // What comes next has the next number: nothing was written in between.
  const next = await turn.conversation.send('/echo afterwards')
  await turn.follower.completed(next.messageId)
  const first = turn.follower.events().find((event) => event.data.messageId === next.messageId)
  expect(first?.id).toBe(lastEventId! + 1)
  await turn.follower.stop()
  cluster.balance()
})

test('a replica that wakes up while another finishes its turn does not get in between', async ({ cluster }) => {
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  // Long enough for the lease to lapse and for the other one to be in the middle of it.
  const { messageId } = await conversation.send('/words 300 /delay 10')
  const frozenAt = (await follower.streamed(messageId, 50)).split(' ').length
  const { gateway, worker } = await findWorker(cluster)
  gateway.signal('SIGSTOP')
  cluster.balance({ without: [gateway] })
  follower.connections.at(-1)?.cut()
  await follower.streamed(messageId, frozenAt + 60)
  gateway.signal('SIGCONT')
  await until(() => !isAlive(worker), 'the worker of the frozen replica is gone')
  await gateway.ready()
  await follower.completed(messageId)
  const answer = wordsUpTo(300)
  const seen = { name: 'it', acknowledged: [{ messageId, answer }], events: follower.events(), after: 0 }
  expect(findFaults([seen])).toEqual([])
  await follower.stop()
  cluster.balance()
})

test('of many turns at once on three replicas all go on when one replica is killed', async ({ cluster }) => {
  const turns = await Promise.all(Array.from({ length: 12 }, () => startTurn(cluster, cluster.random.int(1, 40))))
  const victim = cluster.random.pick(cluster.replicas.filter((gateway) => gateway.workers().length > 0))
  victim.signal('SIGKILL')
  await victim.exited
  cluster.balance()
  await Promise.all(turns.map(expectWhole))
  await Promise.all(turns.map((turn) => turn.follower.stop()))
  await cluster.add()
})

test('a turn survives when every replica is killed, one after the other', async ({ cluster }) => {
  const turn = await startTurn(cluster, 10)
  const before = cluster.replicas.filter((gateway) => !gateway.hasExited())
  await Promise.all([cluster.add(), cluster.add()])
  for (const gateway of before) gateway.signal('SIGKILL')
  await Promise.all(before.map((gateway) => gateway.exited))
  cluster.balance()
  await expectWhole(turn)
  await expectOneEnd(cluster, turn)
  await turn.follower.stop()
})

test('a turn that loses its worker every time ends as failed, once, and says why', async ({ cluster }) => {
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const { messageId } = await conversation.send('/words 100000 /delay 20')
  const isOver = () => follower.events().some((event) => event.name === 'complete')
  let killed = 0
  for (let heard = 0; !isOver(); ) {
    // Only a worker that was given the turn costs it a try; one that was hit before would have been replaced.
    await until(() => isOver() || streamedText(follower.events(), messageId).length > heard, 'it is tried again')
    for (const pid of cluster.replicas.flatMap((gateway) => gateway.workers())) {
      killed++
      killProcess(pid)
    }
    heard = streamedText(follower.events(), messageId).length
  }
  const acknowledged = [{ messageId, status: 'failed' as const }]
  const seen = { name: conversation.id, acknowledged, events: follower.events(), after: 0 }
  expect(findFaults([seen])).toEqual([])
  const error = follower.events().find((event) => event.name === 'error')
  expect(error?.data.code).toBe('worker_crashed')
  expect(killed).toBeGreaterThanOrEqual(3)
  await follower.stop()
})
