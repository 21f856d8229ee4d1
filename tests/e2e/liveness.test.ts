import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, onTestFinished } from 'vitest'
import { test } from '../support/cluster.ts'
import { type Gateway, requireProc, until } from '../support/gateway.ts'
import { CHART } from '../support/helm.ts'
import { INSPECTED, openInspector } from '../support/inspector.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('replicas are processes of their own')
requireProc()

test.override('clusterOptions', { replicas: 1, env: INSPECTED })

const DEPLOYMENT = readFileSync(path.join(CHART, 'templates/app/deployment.yaml'), 'utf8')
/** As long as the chart lets a liveness probe wait; it is no value of the chart, so no machine needs helm for it. */
const PROBE_MS = 1000 * Number(/livenessProbe:[^#]*?timeoutSeconds: (\d+)\n/.exec(DEPLOYMENT)![1])
/** A loop that nobody lets go goes on by itself, long after the test has failed. */
const HELD_MS_MAX = 60_000

const isAlive = (url: string) =>
  fetch(`${url}/health`, { signal: AbortSignal.timeout(PROBE_MS) }).then(
    async (response) => (await response.text()) !== '' && response.ok,
    () => false,
  )

/** Keeps the main thread of a replica within one call, while the rest of its process lives. Resolves once it is held. */
async function holdEventLoop(gateway: Gateway): Promise<{ letGo(): Promise<unknown> }> {
  const dir = await mkdtemp(path.join(tmpdir(), 'lobu-held-'))
  const [held, free] = [path.join(dir, 'held'), path.join(dir, 'free')]
  const inspector = await openInspector(gateway)
  onTestFinished(async () => {
    inspector.close()
    await rm(dir, { recursive: true })
  })
  const call = inspector.ask<{ result: { value: unknown } }>('Runtime.evaluate', {
    expression: `(() => {
      const { existsSync, writeFileSync } = process.getBuiltinModule('node:fs')
      const nobody = new Int32Array(new SharedArrayBuffer(4))
      const end = performance.now() + ${HELD_MS_MAX}
      writeFileSync(${JSON.stringify(held)}, '')
      while (!existsSync(${JSON.stringify(free)})) {
        if (performance.now() > end) return 'nobody let it go'
        Atomics.wait(nobody, 0, 0, 10)
      }
      return 'let go'
    })()`,
  })
  await Promise.race([until(() => existsSync(held), 'the loop is held'), call])
  return {
    async letGo() {
      writeFileSync(free, '')
      return (await call).result.value
    },
  }
}

// 68
test('a replica whose event loop stands still fails its probe, and passes it when it goes on', async ({ cluster }) => {
  const [gateway] = cluster.replicas
  expect(await isAlive(gateway!.url)).toBe(true)
  const loop = await holdEventLoop(gateway!)
  expect(await isAlive(gateway!.url)).toBe(false)
  expect(await loop.letGo()).toBe('let go')
  await expect.poll(() => isAlive(gateway!.url), { timeout: 60_000 }).toBe(true)
})

// 68
test('a replica that is frozen whole fails its probe as well, and passes it when it goes on', async ({ cluster }) => {
  const [gateway] = cluster.replicas
  expect(await isAlive(gateway!.url)).toBe(true)
  gateway!.signal('SIGSTOP')
  expect(await isAlive(gateway!.url)).toBe(false)
  gateway!.signal('SIGCONT')
  await expect.poll(() => isAlive(gateway!.url), { timeout: 60_000 }).toBe(true)
})
