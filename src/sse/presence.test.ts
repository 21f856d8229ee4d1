import { randomUUID } from 'node:crypto'
import { expect, vi } from 'vitest'
import { PATIENT } from '../../tests/support/http.ts'
import { type ConversationKey, createStreamWorld } from '../../tests/support/streams.ts'
import { test, type World } from '../../tests/support/world.ts'
import type { Sql } from '../db/client.ts'
import { inTransaction } from '../db/transaction.ts'
import { createReplica } from '../queue/replica.ts'
import { createPresence, hasOpenStream, notePresence, type StreamKey } from './presence.ts'

test('a conversation is watched from the first stream to the end of the last', async ({ world }) => {
  const { sql, key, replica } = await createStage(world)
  const presence = await world.run(createPresence({ sql, log: world.log, noteEndsSeen: async () => {} }))
  expect(await hasOpenStream(sql, key)).toBe(false)
  const [one, two] = [await open(sql, key, replica.id), await open(sql, key, replica.id)]
  expect(await hasOpenStream(sql, key)).toBe(true)

  presence.leave(one)
  await vi.waitFor(async () => expect(await rows(sql, key)).toBe(1), PATIENT)
  expect(await hasOpenStream(sql, key)).toBe(true)
  presence.leave(two)
  await vi.waitFor(async () => expect(await hasOpenStream(sql, key)).toBe(false), PATIENT)
})

test('a stream that never came to be noted, because its transaction failed, is not open', async ({ world }) => {
  const { sql, key, replica } = await createStage(world)
  const failing = inTransaction(sql, async (tx) => {
    await notePresence(tx, { ...key, id: randomUUID() }, { replica: replica.id, after: 0 })
    throw new Error('no such conversation')
  })
  await expect(failing).rejects.toThrow('no such conversation')
  expect(await hasOpenStream(sql, key)).toBe(false)
})

test('streams of a replica that stopped renewing its lease do not count, and go with its row', async ({ world }) => {
  const { sql, key, replica } = await createStage(world)
  await open(sql, key, replica.id)
  await sql`update replicas set lease_until = now() - interval '1 second' where id = ${replica.id}`
  expect(await hasOpenStream(sql, key)).toBe(false)
  await replica.leave()
  expect(await rows(sql, key)).toBe(0)
})

test('ends that could not be written are written when the database is back', async ({ world }) => {
  const { sql, key, replica } = await createStage(world)
  const streams = await Promise.all(Array.from({ length: 3 }, () => open(sql, key, replica.id)))
  let failures = 0
  const shaky = ((...args: Parameters<Sql>) => {
    if (failures++ < 2) throw new Error('the database is away')
    return sql(...args)
  }) as Sql
  const presence = await world.run(createPresence({ sql: shaky, log: world.log, noteEndsSeen: async () => {} }))
  for (const stream of streams) presence.leave(stream)
  await vi.waitFor(async () => expect(await rows(sql, key)).toBe(0), PATIENT)
  expect(failures).toBeGreaterThan(2)
})

test('thousands of streams that end at once are all noted', async ({ world }) => {
  const { sql, key, replica } = await createStage(world)
  const ids = Array.from({ length: 2_500 }, () => randomUUID())
  await sql`
    insert into stream_presence (organization_id, conversation_id, id, replica_id)
    select ${key.organizationId}, ${key.conversationId}, id, ${replica.id} from unnest(${ids}::uuid[]) as x (id)`
  const presence = await world.run(createPresence({ sql, log: world.log, noteEndsSeen: async () => {} }))
  for (const id of ids) presence.leave({ ...key, id })
  await vi.waitFor(async () => expect(await rows(sql, key)).toBe(0), PATIENT)
})

// 70
test('streams that end while nothing can be noted as seen do not collect without end', async ({ world }) => {
  const { sql, key, replica } = await createStage(world)
  const noteEndsSeen = async () => {
    throw new Error('cannot be noted')
  }
  const presence = await world.run(createPresence({ sql, log: world.log, noteEndsSeen }))
  const ids = Array.from({ length: 22_000 }, () => randomUUID())
  await sql`
    insert into stream_presence (organization_id, conversation_id, id, replica_id)
    select ${key.organizationId}, ${key.conversationId}, id, ${replica.id} from unnest(${ids}::uuid[]) as x (id)`
  presence.seen(key, 1)
  for (const id of ids) presence.leave({ ...key, id })
  await vi.waitFor(async () => expect(await rows(sql, key)).toBeLessThanOrEqual(20_000), PATIENT)
})

async function createStage(world: World) {
  const streams = await createStreamWorld(world)
  const { sql } = streams
  const replica = createReplica(
    { sql, log: world.log },
    { id: world.unique('replica'), version: 'test', leaseMs: 60_000 },
  )
  await replica.register()
  return { sql, key: await streams.conversation(), replica }
}

async function open(sql: Sql, key: ConversationKey, replica: string): Promise<StreamKey> {
  const stream = { ...key, id: randomUUID() }
  await inTransaction(sql, (tx) => notePresence(tx, stream, { replica, after: 0 }))
  return stream
}

async function rows(sql: Sql, key: ConversationKey): Promise<number> {
  const [row] = await sql<{ count: number }[]>`
    select count(*)::int as count from stream_presence
    where organization_id = ${key.organizationId} and conversation_id = ${key.conversationId}`
  return row!.count
}
