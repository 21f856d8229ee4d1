import { expect } from 'vitest'
import { findFaults } from '../support/checker.ts'
import { type Cluster, type Conversation, test } from '../support/cluster.ts'
import type { Follower } from '../support/follower.ts'
import { type Gateway, isAlive, killProcess, requireProc, until } from '../support/gateway.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('several replicas share it')
requireProc()

// Without spare workers, the only worker process of a replica is the one that is at work.
test.override('clusterOptions', { replicas: 3, env: { WORKERS_WARM: '0', WORKER_IDLE_SECONDS: '1' } })

const WORDS = 80
const SLOW = `/words ${WORDS} /delay 20`
const WHOLE = Array.from({ length: WORDS }, (_, at) => `w${at + 1}`).join(' ')

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
  const answer = Array.from({ length: 300 }, (_, at) => `w${at + 1}`).join(' ')
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
  const { messageId } = await conversation.send('/hang')
  const killed = new Set<number>()
  const isOver = () => follower.events().some((event) => event.name === 'complete')
  while (!isOver()) {
    const workers = cluster.replicas.flatMap((gateway) => gateway.workers()).filter((pid) => !killed.has(pid))
    for (const pid of workers) {
      killed.add(pid)
      killProcess(pid)
    }
    await until(() => isOver() || cluster.replicas.some((gateway) => gateway.workers().length > 0), 'it is tried again')
  }
  const acknowledged = [{ messageId, answer: '', status: 'failed' as const }]
  const seen = { name: conversation.id, acknowledged, events: follower.events(), after: 0 }
  expect(findFaults([seen])).toEqual([])
  const error = follower.events().find((event) => event.name === 'error')
  // A worker may be hit before it could say that it is ready.
  expect(['worker_crashed', 'worker_start_failed']).toContain(error?.data.code)
  expect(killed.size).toBeGreaterThanOrEqual(3)
  await follower.stop()
})
