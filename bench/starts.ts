/** What a newcomer waits for: `lobu serve` with the embedded database, from the start of the process to an answer. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type BenchGateway, call, follow, isQuick, keyOf, median, startGateway } from './support.ts'
import type { Row } from './table.ts'

const ROUNDS = isQuick ? 1 : 3

export async function benchStarts(): Promise<Row[]> {
  const first: number[] = []
  const second: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const dir = await mkdtemp(join(tmpdir(), 'lobu-start-'))
    const fresh = await startGateway({ LOBU_DATA_DIR: dir })
    const key = keyOf(fresh)
    first.push(fresh.startMs + (await answer(fresh, key)))
    await fresh.stop()
    const again = await startGateway({ LOBU_DATA_DIR: dir, LOBU_KEY: key })
    second.push(again.startMs + (await answer(again, key)))
    await again.stop()
    await rm(dir, { recursive: true, force: true })
  }
  return [
    { name: 'first start to first answered message, embedded', ours: median(first) / 1000, unit: 's', goal: '≤ 20 s' },
    { name: 'second start to first answered message', ours: median(second) / 1000, unit: 's', goal: '≤ 3 s' },
  ]
}

async function answer(gateway: BenchGateway, key: string): Promise<number> {
  const startedAt = performance.now()
  const { agentId } = await call<{ agentId: string }>(`${gateway.url}/api/v1/agents`, key, { forceNew: true })
  const done = Promise.withResolvers<void>()
  const close = await follow(`${gateway.url}/api/v1/agents/${agentId}/events`, key, (event) => {
    if (event === 'complete') done.resolve()
  })
  await call(`${gateway.url}/api/v1/agents/${agentId}/messages`, key, { content: '/words 3' })
  await done.promise
  close()
  return performance.now() - startedAt
}
