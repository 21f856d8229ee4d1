import { expect } from 'vitest'
import { shutdownTimes } from '../../src/config/shutdown.ts'
import { findFaults } from '../support/checker.ts'
import { type Conversation, test } from '../support/cluster.ts'
import { type Exit, type Gateway, isAlive, requireProc, startGateway, until } from '../support/gateway.ts'
import { sendHalf } from '../support/half-sent.ts'
import { talk } from '../support/talk.ts'
import { wordsUpTo } from '../support/words.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('several replicas share it')
requireProc()

test.override('clusterOptions', { replicas: 2, env: { SHUTDOWN_GRACE_SECONDS: '0' } })

const WORDS = 60
const SLOW = `/words ${WORDS} /delay 20`
const WHOLE = wordsUpTo(WORDS)
const STOPPED = { code: 0, signal: null }

/**
 * How it ended, which is within the time that whoever kills it afterwards must leave it: docs/operations.md. The time runs
 * from the signal; here it is counted from later, and with a second for the way to us.
 */
function ended(gateway: Gateway, { waitSeconds = 0, graceSeconds = 0 } = {}): Promise<Exit> {
  const { totalMs } = shutdownTimes({ waitMs: waitSeconds * 1000, graceMs: graceSeconds * 1000 })
  return until(() => gateway.exited, `it ends within its ${totalMs / 1000} s`, totalMs + 1_000)
}

const complete = (messageId: string) => (event: { name: string; data: { messageId?: string } }) =>
  event.name === 'complete' && event.data.messageId === messageId

/** One finished turn on this very replica, so that it has an idle worker. */
async function warmUp(conversation: Conversation, gateway: Gateway) {
  const follower = await conversation.follow({ at: gateway.url })
  const posted = await conversation.post('/echo warm', { at: gateway.url })
  await follower.completed(String(posted.body.messageId))
  await follower.stop()
}

test('SIGTERM with idle workers and an open stream sends the client elsewhere and leaves no process', async ({
  cluster,
}) => {
  const gateway = await cluster.add()
  const conversation = await cluster.open()
  await warmUp(conversation, gateway)
  const follower = await conversation.follow({ at: gateway.url, lastEventId: 0 })
  const stream = follower.connections[0]!
  await follower.until((event) => event.name === 'complete', 'an end')
  const workers = gateway.workers()
  expect(workers.length).toBeGreaterThan(0)
  const spawner = gateway.spawner()!
  gateway.signal('SIGTERM')
  // A proper end of the response, behind a `retry:`; nothing is torn off.
  expect(await stream.closed).toBe(true)
  expect(stream.retryMs).toBeGreaterThan(0)
  expect(await ended(gateway)).toEqual(STOPPED)
  expect([spawner, ...workers].filter(isAlive)).toEqual([])
  expect(gateway.lines().filter(({ level }) => level === 'error' || level === 'fatal')).toEqual([])
  await follower.stop()
})

test('SIGTERM twice is SIGTERM once', async ({ cluster }) => {
  const gateway = await cluster.add()
  gateway.signal('SIGTERM')
  await gateway.logged('stopping')
  gateway.signal('SIGTERM')
  gateway.signal('SIGINT')
  expect(await ended(gateway)).toEqual(STOPPED)
  cluster.balance()
})

// 65
test('SIGTERM is told to balancers first: an idle replica says that it is not ready, and goes on until its wait is over', async ({
  cluster,
}) => {
  const gateway = await cluster.add({ SHUTDOWN_WAIT_SECONDS: '4' })
  const conversation = await cluster.open()
  await warmUp(conversation, gateway)
  gateway.signal('SIGTERM')
  const look = () => cluster.call('GET', '/health/ready', { at: gateway.url })
  const ready = await until(async () => {
    const answer = await look()
    return answer.status === 503 ? answer : undefined
  }, 'it says that it is not ready')
  expect(ready.body).toMatchObject({ subsystems: { gateway: { state: 'draining' } } })
  // Who has not noticed yet is served as ever, and moved elsewhere behind the answer.
  const follower = await conversation.follow({ at: gateway.url, lastEventId: 0 })
  const posted = await conversation.post('/echo meanwhile', { at: gateway.url })
  expect(posted).toMatchObject({ status: 200, headers: { connection: 'close' } })
  await follower.completed(String(posted.body.messageId))
  expect(follower.connections).toHaveLength(1)
  expect(await ended(gateway, { waitSeconds: 4 })).toEqual(STOPPED)
  const runs = gateway.lines().filter((line) => line.msg === 'run')
  expect(runs.at(-1)).toMatchObject({ runId: posted.body.runId, outcome: 'completed' })
  cluster.balance()
  await follower.stop()
})

test('Ctrl-C waits for no balancer', async ({ cluster }) => {
  const gateway = await cluster.add({ SHUTDOWN_WAIT_SECONDS: '600' })
  gateway.signal('SIGINT')
  expect(await ended(gateway)).toEqual(STOPPED)
  cluster.balance()
})

test('a second signal ends all waits at once, and still hands over what runs', async ({ cluster }) => {
  const gateway = await cluster.add({ SHUTDOWN_WAIT_SECONDS: '600', SHUTDOWN_GRACE_SECONDS: '600' })
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const posted = await conversation.post(SLOW, { at: gateway.url })
  const { messageId, runId } = posted.body as { messageId: string; runId: string }
  gateway.signal('SIGTERM')
  await gateway.logged('stopping')
  cluster.balance({ without: [gateway] })
  // A signal that comes together with the first is taken for the same one, so it takes a person's second.
  await until(() => {
    gateway.signal('SIGTERM')
    return gateway.lines().some(({ msg }) => msg === 'stopping at once')
  }, 'the second signal is obeyed')
  expect(await ended(gateway)).toEqual(STOPPED)
  await follower.completed(messageId)
  const seen = { name: 'turn', acknowledged: [{ messageId, answer: WHOLE }], events: follower.events(), after: 0 }
  expect(findFaults([seen])).toEqual([])
  expect((await cluster.call('GET', `/api/v1/runs/${runId}`)).body).toMatchObject({ status: 'completed', attempt: 1 })
  await follower.stop()
})

test('SIGTERM in the middle of the start is obeyed', async ({ cluster }) => {
  for (const afterMs of [0, 20, 60, 120, 250]) {
    const gateway = await startGateway(cluster.env)
    setTimeout(gateway.signal, afterMs, 'SIGTERM')
    expect(await ended(gateway)).toEqual(STOPPED)
    expect(gateway.lines().filter(({ level }) => level === 'error' || level === 'fatal')).toEqual([])
    await gateway.destroy()
  }
})

test('a turn that runs at SIGTERM goes on elsewhere, and its stream with it', async ({ cluster }) => {
  const gateway = await cluster.add()
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const posted = await conversation.post(SLOW, { at: gateway.url })
  const { messageId, runId } = posted.body as { messageId: string; runId: string }
  await follower.streamed(messageId, 10)
  gateway.signal('SIGTERM')
  expect(await ended(gateway)).toEqual(STOPPED)
  expect(follower.events().some(complete(messageId))).toBe(false)
  cluster.balance()
  await follower.completed(messageId)
  const seen = { name: 'turn', acknowledged: [{ messageId, answer: WHOLE }], events: follower.events(), after: 0 }
  expect(findFaults([seen])).toEqual([])
  // Being handed over is nobody's failure.
  expect((await cluster.call('GET', `/api/v1/runs/${runId}`)).body).toMatchObject({ status: 'completed', attempt: 1 })
  await follower.stop()
})

test('a turn that ends within the grace is ended where it runs', async ({ cluster }) => {
  const gateway = await cluster.add({ SHUTDOWN_GRACE_SECONDS: '30' })
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const posted = await conversation.post(SLOW, { at: gateway.url })
  const messageId = String(posted.body.messageId)
  await follower.streamed(messageId, 10)
  gateway.signal('SIGTERM')
  await gateway.logged('stopping')
  const ready = await cluster.call('GET', '/health/ready', { at: gateway.url })
  expect(ready).toMatchObject({ status: 503, body: { subsystems: { gateway: { state: 'draining' } } } })
  // Until it closes it still takes messages, which others answer.
  const meanwhile = await (await cluster.open()).post('/echo meanwhile', { at: gateway.url })
  expect(meanwhile.status).toBe(200)
  await until(async () => {
    const run = await cluster.call('GET', `/api/v1/runs/${meanwhile.body.runId}`)
    return run.body.status === 'completed'
  }, 'another replica has answered')
  await follower.completed(messageId)
  expect(await ended(gateway, { graceSeconds: 30 })).toEqual(STOPPED)
  const runs = gateway.lines().filter((line) => line.msg === 'run')
  expect(runs.map(({ runId, outcome }) => [runId, outcome])).toEqual([[posted.body.runId, 'completed']])
  cluster.balance()
  await follower.stop()
})

test('what is still under way when the whole time of a stop is over is cut, and the process ends', async ({
  cluster,
}) => {
  const gateway = await cluster.add()
  const { id, token } = await cluster.open()
  const path = `/api/v1/agents/${id}/messages`
  const half = await sendHalf(gateway.url, { path, body: { content: '/echo late' }, token })
  gateway.signal('SIGTERM')
  cluster.balance({ without: [gateway] })
  expect(await gateway.logged('stopping')).toMatchObject({ requestsEndMs: 10_000, totalMs: 15_000 })
  expect(await ended(gateway)).toEqual(STOPPED)
  expect(await half.finish()).toMatch(/ECONNRESET|EPIPE|socket hang up/)
})

test('SIGKILL of a replica takes its workers along, idle and busy ones', async ({ cluster }) => {
  const gateway = await cluster.add()
  await warmUp(await cluster.open(), gateway)
  const busy = await cluster.open()
  const follower = await busy.follow()
  const posted = await busy.post('/hang', { at: gateway.url })
  await follower.until((event) => event.name === 'status', 'that it is being worked on')
  const workers = await until(() => (gateway.workers().length >= 2 ? gateway.workers() : undefined), 'two workers run')
  const spawner = gateway.spawner()!
  gateway.signal('SIGKILL')
  await gateway.exited
  cluster.balance()
  await until(() => ![spawner, ...workers].some(isAlive), 'its workers are gone')
  await busy.cancel()
  await follower.completed(String(posted.body.messageId))
  await follower.stop()
})

test('all replicas are replaced under load: no request fails, and every turn ends once', async ({ cluster }) => {
  let isOver = false
  const clients = Promise.all(
    Array.from({ length: 10 }, (_, at) => talk(cluster, { name: `client-${at}`, goOn: () => !isOver, away: null })),
  )
  for (const gateway of cluster.replicas.filter((one) => !one.hasExited())) {
    await cluster.add()
    // What a preStop hook is for: nobody is sent to it any more when the signal comes.
    cluster.balance({ without: [gateway] })
    gateway.signal('SIGTERM')
    expect(await ended(gateway)).toEqual(STOPPED)
  }
  isOver = true
  const seen = await clients
  expect(findFaults(seen)).toEqual([])
  expect(seen.every(({ acknowledged }) => acknowledged.length > 0)).toBe(true)
})
