import { cp, mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished } from 'vitest'
import { type Cluster, test } from '../support/cluster.ts'
import { DIST, type Gateway, requireProc, startGateway, until } from '../support/gateway.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('replicas share it')
requireProc()

test.override('clusterOptions', { replicas: 0, env: { RUN_ATTEMPTS_MAX: '2', WORKER_IDLE_SECONDS: '1' } })

/** A copy of the build whose worker can be taken away, broken and put back. It lies where packages are found. */
async function copyBuild() {
  const parent = fileURLToPath(new URL('../../node_modules/.cache', import.meta.url))
  const dist = await mkdtemp(path.join(parent, 'build-'))
  onTestFinished(() => rm(dist, { recursive: true, force: true }))
  await cp(DIST, dist, { recursive: true })
  const entry = path.join(dist, 'worker', 'main.js')
  await rename(entry, `${entry}.kept`)
  return {
    dist,
    breakWith: (text: string) => writeFile(entry, text),
    takeAway: () => rm(entry, { force: true }),
    repair: () => cp(`${entry}.kept`, entry),
  }
}

const readinessOf = (cluster: Cluster, gateway: Gateway) =>
  cluster.call('GET', '/health/ready', { at: gateway.url }).then(({ status, body }) => {
    const { workers } = body.subsystems as Record<string, { state: string; detail?: string }>
    return { status, workers: workers! }
  })

// 43, 69
test('a replica whose workers cannot start is not ready and says why; what was accepted waits, unspent, until they can', async ({
  cluster,
}) => {
  const build = await copyBuild()
  await build.breakWith('process.exit(7)')
  const gateway = await startGateway(cluster.env, { build: build.dist })
  onTestFinished(gateway.destroy)
  const broken = (detail: RegExp) =>
    until(async () => {
      const { status, workers } = await readinessOf(cluster, gateway)
      return status === 503 && workers.state === 'down' && detail.test(workers.detail ?? '')
    }, `readiness names workers and ${detail}`)
  const stateOf = async (runId: string) => {
    const [run] = await cluster.database.sql`select state, attempt from runs where id = ${runId}`
    return run
  }
  await broken(/ended with 7 before it was ready/)
  // Nobody is sent to it any more; who comes all the same is taken at its word.
  const at = gateway.url
  const conversation = await cluster.open({}, { at })
  const first = await conversation.post('/echo first', { at })
  expect(first.status).toBe(200)
  await build.repair()
  await gateway.ready()
  const follower = await conversation.follow({ at, lastEventId: 0 })
  await follower.completed(String(first.body.messageId))

  // It had workers, and then the file is gone: a disk, an upgrade in place.
  await build.takeAway()
  for (const worker of gateway.workers()) process.kill(worker, 'SIGKILL')
  const others = await Promise.all([1, 2, 3].map(() => cluster.open({}, { at })))
  const posted = await Promise.all(others.map((one, n) => one.post(`/echo other ${n}`, { at })))
  expect(posted.map(({ status }) => status)).toEqual([200, 200, 200])
  await broken(/ended with 1 before it was ready/)
  for (const { body } of posted) {
    expect(
      await until(async () => ((await stateOf(String(body.runId)))?.state === 'ready' ? true : undefined), 'it waits'),
    ).toBe(true)
    expect(await stateOf(String(body.runId))).toEqual({ state: 'ready', attempt: 0 })
  }
  await build.repair()
  await gateway.ready()
  await Promise.all(
    posted.map(({ body }) =>
      until(async () => (await stateOf(String(body.runId)))?.state === 'completed', 'it is answered'),
    ),
  )
  expect(await Promise.all(posted.map(({ body }) => stateOf(String(body.runId))))).toEqual(
    posted.map(() => ({ state: 'completed', attempt: 1 })),
  )
  await follower.stop()
})
