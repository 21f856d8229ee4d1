import { expect } from 'vitest'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import { openConversation } from '../conversations/open.ts'
import { findApiKey } from './api-keys.ts'
import { bootstrap, needsBootstrap } from './bootstrap.ts'

requirePostgres('replicas start at the same time')

test('replicas that start at once on an empty database make one organization and one key', async ({ world }) => {
  const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))
  const { sql } = replicas[0]!
  expect(await needsBootstrap(sql)).toBe(true)

  const made = await Promise.all(
    [...replicas, ...replicas].map((replica) => bootstrap(replica.sql, { onlyFirst: true })),
  )
  const keys = made.filter((one) => one !== null)
  expect(keys).toHaveLength(1)
  expect(keys[0]!.organizationSlug).toBe('default')
  expect(await needsBootstrap(sql)).toBe(false)

  const again = await bootstrap(sql, { onlyFirst: false })
  expect(again!.token).not.toBe(keys[0]!.token)
  const found = await Promise.all([keys[0]!, again!].map(({ token }) => findApiKey(sql, token)))
  expect(found[0]).toMatchObject({ organizationSlug: 'default' })
  expect(found[1]).toEqual({ ...found[0], credentialId: again!.id })
  const opened = await openConversation(sql, {
    actor: found[0]!,
    forceNew: false,
    dryRun: false,
    settings: {},
  })
  expect(opened).toMatchObject({ agentId: 'assistant', created: true })
  for (const table of ['organizations', 'users', 'members', 'agents']) {
    expect(await sql`select 1 as n from ${sql(table)}`, table).toEqual([{ n: 1 }])
  }
})
