import { describe, expect } from 'vitest'
import { createScene, type Scene, USAGE } from '../../../tests/support/scene.ts'
import { test } from '../../../tests/support/world.ts'
import { scopeToOrganization } from '../../db/tenant.ts'
import { saveStep } from '../runs/save-step.ts'
import { listUsage, readUsage } from './read-usage.ts'
import { toUsageCsv } from './usage-csv.ts'

type Day = { day: string; agent?: string; model?: string; user?: string; tokens?: number; unpriced?: number }

async function record({ sql, organizationId }: Scene, days: Day[]) {
  for (const { day, agent = 'a', model = 'demo/demo', user = 'u', tokens = 1, unpriced = 0 } of days) {
    await sql`
      insert into usage_days (organization_id, day, agent_id, model, user_id, runs, input_tokens, cost_micros, unpriced_runs)
      values (${organizationId}, ${day}, ${agent}, ${model}, ${user}, 1, ${tokens}, ${tokens * 2}, ${unpriced})`
  }
}

const read = (scene: Scene, over: Partial<Parameters<typeof readUsage>[1]> = {}) =>
  readUsage(scopeToOrganization(scene.sql, scene.organizationId), {
    ...{ actor: scene.actor, group: 'day', from: '2026-01-01', to: '2026-01-31', limit: 100 },
    ...over,
  })

const csvOf = async (scene: Scene, range = { from: '2026-01-01', to: '2026-01-31' }) =>
  (await Array.fromAsync(toUsageCsv(listUsage(scene.sql, { actor: scene.actor, ...range })))).join('')

describe('usage', () => {
  test('is summed by each of its sides, within the range and the organization', async ({ world }) => {
    const [scene, other] = [await createScene(world), await createScene(world)]
    await record(other, [{ day: '2026-01-02', tokens: 1_000 }])
    await record(scene, [
      { day: '2025-12-31', tokens: 1_000 },
      { day: '2026-01-01', agent: 'a', user: 'x', tokens: 1 },
      { day: '2026-01-01', agent: 'b', user: 'y', model: 'openai-compatible/m', tokens: 10, unpriced: 1 },
      { day: '2026-01-31', agent: 'b', user: 'x', tokens: 100 },
      { day: '2026-02-01', tokens: 1_000 },
    ])
    const tokens = async (group: 'day' | 'agent' | 'model' | 'user') =>
      (await read(scene, { group })).rows.map((row) => [row.key, row.inputTokens])
    expect(await tokens('day')).toEqual([
      ['2026-01-01', 11],
      ['2026-01-31', 100],
    ])
    expect(await tokens('agent')).toEqual([
      ['a', 1],
      ['b', 110],
    ])
    expect(await tokens('user')).toEqual([
      ['x', 101],
      ['y', 10],
    ])
    expect(await tokens('model')).toEqual([
      ['demo/demo', 101],
      ['openai-compatible/m', 10],
    ])
    const report = await read(scene)
    expect(report.total).toEqual({
      ...{ runs: 3, inputTokens: 111, outputTokens: 0, cachedInputTokens: 0, costMicros: 222, unpricedRuns: 1 },
    })
    expect(report.unpricedModels).toEqual(['openai-compatible/m'])
  })

  test('shows the steps of turns that are still running', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    const today = new Date().toISOString().slice(0, 10)
    const messages = [{ role: 'assistant' as const, content: 'hello' }]
    await saveStep(scene.sql, run, { step: 1, messages, usage: USAGE, model: 'demo/demo', costMicros: 7 })
    const range = { from: today, to: today }
    expect((await read(scene, range)).rows).toMatchObject([{ key: today, runs: 0, inputTokens: 3, costMicros: 7 }])
    expect(await csvOf(scene, range)).toContain(`${today},assistant,demo/demo,user-1,0,3,5,1,0.000007,0\r\n`)
  })

  test('comes in pages, each row once', async ({ world }) => {
    const scene = await createScene(world)
    const users = Array.from({ length: 25 }, (_, at) => `user-${String(at).padStart(2, '0')}`)
    await record(
      scene,
      users.map((user) => ({ day: '2026-01-05', user })),
    )
    const keys: string[] = []
    for (let after: string | undefined; ; ) {
      const page = await read(scene, { group: 'user', limit: 10, after })
      keys.push(...page.rows.map((row) => row.key))
      expect(page.total.runs).toBe(25)
      if (page.nextCursor === null) break
      after = page.nextCursor
    }
    expect(keys).toEqual(users)
  })

  test('is refused without the permission to see it', async ({ world }) => {
    const scene = await createScene(world)
    const actor = { ...scene.actor, permissions: new Set([]) }
    await expect(read(scene, { actor })).rejects.toMatchObject({ code: 'forbidden' })
    await expect(listUsage(scene.sql, { actor, from: '2026-01-01', to: '2026-01-02' }).next()).rejects.toMatchObject({
      code: 'forbidden',
    })
  })
})

describe('usage as CSV', () => {
  test('is complete and in order, however many rows there are', async ({ world }) => {
    const scene = await createScene(world)
    await scene.sql`
      insert into usage_days (organization_id, day, agent_id, model, user_id, runs)
      select ${scene.organizationId}, '2026-01-01'::date + (n % 3), 'a', 'demo/demo', 'user ' || n, 1
      from generate_series(1, 2500) n`
    const lines = (await csvOf(scene)).split('\r\n')
    expect(lines[0]).toBe(
      'day,agent,model,user,runs,input_tokens,output_tokens,cached_input_tokens,cost_usd,unpriced_runs',
    )
    expect(lines.at(-1)).toBe('')
    const rows = lines.slice(1, -1)
    expect(rows).toHaveLength(2500)
    expect(new Set(rows).size).toBe(2500)
    const days = rows.map((row) => row.slice(0, 10))
    expect(days).toEqual(days.toSorted())
  })

  test('gives a spreadsheet no formula to run', async ({ world }) => {
    const scene = await createScene(world)
    const users = [
      '=1+1',
      '+1',
      '-1',
      '@SUM(A1)',
      '\t=1',
      ' =1',
      '=HYPERLINK("http://x","y")',
      'plain',
      'a,b',
      'a"b',
      'a\nb',
    ]
    await record(
      scene,
      users.map((user) => ({ day: '2026-01-01', user })),
    )
    const csv = await csvOf(scene)
    const cells = users.map((user) => {
      const text = /^\s*[=+\-@]/.test(user) ? `'${user}` : user
      return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
    })
    for (const cell of cells) expect(csv).toContain(`,demo/demo,${cell},1,`)
    expect(csv).not.toMatch(/(^|,)"?\s*[=+@]/m)
  })
})
