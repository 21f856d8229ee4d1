import { readdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { expect, onTestFinished, test } from 'vitest'
import { type ClusterOptions, startParts } from '../support/cluster.ts'
import { processesBelow, requireProc } from '../support/gateway.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('clusters are made of processes')
requireProc()

/** What a cluster of this process can leave behind: gateways with all below them, and a Postgres with its folder. */
async function leftovers(): Promise<string[]> {
  const folders = (await readdir(tmpdir())).filter((name) => name.startsWith(`lobu-test-cluster-${process.pid}-`))
  return [...folders, ...processesBelow(process.pid).map(({ pid, command }) => `${command} ${pid}`)]
}

async function start(options: ClusterOptions) {
  const undo = new AsyncDisposableStack()
  onTestFinished(() => undo.disposeAsync())
  return { undo, starting: startParts(options, undo) }
}

test('a cluster that does not come up says why and leaves nothing behind', async () => {
  const before = await leftovers()
  const { undo, starting } = await start({ replicas: 2, env: { RUN_LEASE_SECONDS: 'fifteen' }, postgres: 'own' })
  await expect(starting).rejects.toThrow('RUN_LEASE_SECONDS')
  expect(await leftovers()).not.toEqual(before)
  await undo.disposeAsync()
  expect(await leftovers()).toEqual(before)
})

test('a replica that aborts is noticed, and the others end all the same', async () => {
  const before = await leftovers()
  const { undo, starting } = await start({ replicas: 2, env: {} })
  const { cluster, expectAlive } = await starting
  expectAlive()
  const [victim, other] = cluster.replicas
  process.kill(victim!.pid, 'SIGABRT')
  expect(await victim!.exited).toMatchObject({ code: null, signal: 'SIGABRT' })
  expect(expectAlive).toThrow('a replica ended by itself')
  expect(other!.hasExited()).toBe(false)
  await undo.disposeAsync()
  expect(await leftovers()).toEqual(before)
})

test('a replica that is still being started when its cluster ends, ends with it', async () => {
  const before = await leftovers()
  const { undo, starting } = await start({ replicas: 1, env: {} })
  const { cluster } = await starting
  const added = cluster.add().catch(() => {})
  await undo.disposeAsync()
  await added
  expect(await leftovers()).toEqual(before)
  await expect(cluster.add()).rejects.toThrow('the cluster is gone')
})
