import { expect } from 'vitest'
import { test } from '../support/cluster.ts'
import { requireProc } from '../support/gateway.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('replicas are processes of their own')
requireProc()

test.override('clusterOptions', { replicas: 1, env: {} })

/** As long as the chart lets a probe wait. */
const PROBE_MS = 5_000

const isAlive = (url: string) =>
  fetch(`${url}/health`, { signal: AbortSignal.timeout(PROBE_MS) }).then(
    async (response) => (await response.text()) !== '' && response.ok,
    () => false,
  )

// 68
test('a replica whose event loop stands still fails its probe, and passes it when it goes on', async ({ cluster }) => {
  const [gateway] = cluster.replicas
  expect(await isAlive(gateway!.url)).toBe(true)
  gateway!.signal('SIGSTOP')
  expect(await isAlive(gateway!.url)).toBe(false)
  gateway!.signal('SIGCONT')
  await expect.poll(() => isAlive(gateway!.url), { timeout: 60_000 }).toBe(true)
})
