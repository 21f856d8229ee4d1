import { expect } from 'vitest'
import { until } from '../../tests/support/scene.ts'
import { test, type World } from '../../tests/support/world.ts'
import type { Sql } from '../db/client.ts'
import { createReplica } from './replica.ts'

async function isAlive(sql: Sql, id: string): Promise<boolean> {
  const rows = await sql`select 1 from replicas where id = ${id} and lease_until > now()`
  return rows.length > 0
}

function replica(world: World, sql: Sql, leaseMs: number) {
  return createReplica({ sql, log: world.log }, { id: world.unique('replica'), version: '1.2.3', leaseMs })
}

test('a replica lives from its registration until it leaves', async ({ world }) => {
  const { sql } = await world.replica()
  const own = replica(world, sql, 600_000)
  await own.register()
  expect(await isAlive(sql, own.id)).toBe(true)
  expect(await sql`select version from replicas where id = ${own.id}`).toEqual([{ version: '1.2.3' }])
  await own.leave()
  expect(await sql`select 1 from replicas where id = ${own.id}`).toEqual([])
})

test('a replica that works keeps its row fresh', async ({ world }) => {
  const { sql } = await world.replica()
  const own = replica(world, sql, 600_000)
  await own.register()
  world.defer(own.leave)
  await sql`update replicas set lease_until = now() - interval '1 second' where id = ${own.id}`
  await world.run(own)
  await until(async () => expect(await isAlive(sql, own.id)).toBe(true))
})

test('the row of a replica that died is removed by another, with the streams that it held', async ({ world }) => {
  const { sql } = await world.replica()
  const [dead, alive] = [replica(world, sql, -1), replica(world, sql, 600_000)]
  await dead.register()
  await sql`
    insert into stream_presence (organization_id, conversation_id, id, replica_id)
    values ('org', 'conv', gen_random_uuid(), ${dead.id})`
  await sql`update replicas set lease_until = now() - interval '1 day' where id = ${dead.id}`
  await alive.register()
  world.defer(alive.leave)
  await world.run(alive)

  await until(async () => expect(await sql`select 1 from replicas where id = ${dead.id}`).toEqual([]))
  expect(await sql`select 1 from stream_presence where replica_id = ${dead.id}`).toEqual([])
  expect(await isAlive(sql, alive.id)).toBe(true)
})
