import { expect } from 'vitest'
import { findFaults } from '../support/checker.ts'
import { type Conversation, test } from '../support/cluster.ts'
import { type Gateway, isAlive, requireProc, startGateway, until } from '../support/gateway.ts'
import { talk } from '../support/talk.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('several replicas share it')
requireProc()

test.override('clusterOptions', { replicas: 2, env: { SHUTDOWN_GRACE_SECONDS: '0' } })

const WORDS = 60
const SLOW = `/words ${WORDS} /delay 20`
const WHOLE = Array.from({ length: WORDS }, (_, at) => `w${at + 1}`).join(' ')
const STOPPED = { code: 0, signal: null }

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
  gateway.signal('SIGTERM')
  // A proper end of the response, behind a `retry:`; nothing is torn off.
  expect(await stream.closed).toBe(true)
  expect(stream.retryMs).toBeGreaterThan(0)
  expect(await gateway.exited).toEqual(STOPPED)
  expect(workers.filter(isAlive)).toEqual([])
  expect(gateway.lines().filter(({ level }) => level === 'error' || level === 'fatal')).toEqual([])
  await follower.stop()
})

test('SIGTERM twice is SIGTERM once', async ({ cluster }) => {
  const gateway = await cluster.add()
  gateway.signal('SIGTERM')
  await gateway.logged('stopping')
  gateway.signal('SIGTERM')
  gateway.signal('SIGINT')
  expect(await gateway.exited).toEqual(STOPPED)
  cluster.balance()
})

test('SIGTERM in the middle of the start is obeyed', async ({ cluster }) => {
  for (const afterMs of [0, 20, 60, 120, 250]) {
    const gateway = await startGateway(cluster.env)
    setTimeout(gateway.signal, afterMs, 'SIGTERM')
    expect(await gateway.exited).toEqual(STOPPED)
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
  expect(await gateway.exited).toEqual(STOPPED)
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
  expect(await gateway.exited).toEqual(STOPPED)
  const runs = gateway.lines().filter((line) => line.msg === 'run')
  expect(runs.map(({ runId, outcome }) => [runId, outcome])).toEqual([[posted.body.runId, 'completed']])
  cluster.balance()
  await follower.stop()
})

test('SIGKILL of a replica takes its workers along, idle and busy ones', async ({ cluster }) => {
  const gateway = await cluster.add()
  await warmUp(await cluster.open(), gateway)
  const busy = await cluster.open()
  const follower = await busy.follow()
  const posted = await busy.post('/hang', { at: gateway.url })
  await follower.until((event) => event.name === 'status', 'that it is being worked on')
  const workers = await until(() => (gateway.workers().length >= 2 ? gateway.workers() : undefined), 'two workers run')
  gateway.signal('SIGKILL')
  await gateway.exited
  cluster.balance()
  await until(() => !workers.some(isAlive), 'its workers are gone')
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
    expect(await gateway.exited).toEqual(STOPPED)
  }
  isOver = true
  const seen = await clients
  expect(findFaults(seen)).toEqual([])
  expect(seen.every(({ acknowledged }) => acknowledged.length > 0)).toBe(true)
})
