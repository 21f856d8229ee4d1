import { expect } from 'vitest'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import { inTransaction } from '../../db/transaction.ts'
import { openConversation } from '../conversations/open.ts'
import { findApiKey } from './api-keys.ts'
import { bootstrap, ensureOrganization, needsBootstrap } from './bootstrap.ts'

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

test('the default organization is the same under whatever name, and is made anew only when it is gone', async ({
  world,
}) => {
  const { sql } = await world.replica()
  const first = await inTransaction(sql, ensureOrganization)
  const name = world.unique('renamed')
  await sql`update organizations set slug = ${name} where id = ${first}`
  const replicas = await Promise.all([1, 2, 3].map(() => world.replica()))
  const ids = await Promise.all(replicas.map((replica) => inTransaction(replica.sql, ensureOrganization)))
  expect(new Set(ids)).toEqual(new Set([first]))
  expect(await bootstrap(sql, { onlyFirst: false })).toMatchObject({ organizationSlug: name })

  await sql`delete from organizations where id = ${first}`
  const anew = await Promise.all(replicas.map((replica) => inTransaction(replica.sql, ensureOrganization)))
  expect(new Set(anew).size).toBe(1)
  expect(anew[0]).not.toBe(first)
  expect(await sql`select slug from organizations where is_default`).toEqual([{ slug: 'default' }])
})

test('a default organization that an earlier release has made is taken for what it is', async ({ world }) => {
  const { sql } = await world.replica()
  const id = await inTransaction(sql, ensureOrganization)
  await sql`update organizations set is_default = false, slug = 'default' where id = ${id}`
  expect(await inTransaction(sql, ensureOrganization)).toBe(id)
})
