import { expect } from 'vitest'
import { createScene } from '../../../tests/support/scene.ts'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import { removeIdleBuckets, takeTokens } from './bucket.ts'

requirePostgres('replicas take tokens on connections of their own')

test('who takes while another is taking gets what that one leaves', async ({ world }) => {
  const scene = await createScene(world)
  const [first, second] = [await world.replica(), await world.replica()]
  const key = { organizationId: scene.organizationId, subject: 'organization' }
  const perMinute = 5
  expect(await takeTokens(scene.sql, key, { want: 0, perMinute })).toMatchObject({ granted: 0, left: 5 })

  const held = await scene.hold(first.sql, (tx) => takeTokens(tx, key, { want: 3, perMinute }))
  const taking = takeTokens(second.sql, key, { want: 5, perMinute })
  await scene.lockWaiters(1)
  await held.release()
  expect(await taking).toMatchObject({ granted: 2 })
})

test('buckets that nobody has taken from for a day are removed, and others are not', async ({ world }) => {
  const { sql, organizationId } = await createScene(world)
  await sql`
    insert into rate_buckets (organization_id, subject, tokens, refilled_at)
    values (${organizationId}, 'key:old', 1, now() - interval '25 hours'), (${organizationId}, 'key:new', 1, now())`
  while ((await removeIdleBuckets(sql, { rowsMax: 100 })) > 0);
  const left = await sql`select subject from rate_buckets where organization_id = ${organizationId}`
  expect(left).toEqual([{ subject: 'key:new' }])
})
