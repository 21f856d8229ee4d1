import { describe, expect } from 'vitest'
import { type ConversationKey, createStreamWorld, type StreamWorld } from '../../tests/support/streams.ts'
import { requirePostgres, test } from '../../tests/support/world.ts'
import { inTransaction } from '../db/transaction.ts'
import { pruneLog, readHeads, readLogs } from './event-log.ts'

const DAY_MS = 86_400_000
const some = (n: number, content = 'x'): [string, Record<string, unknown>][] => Array(n).fill(['output', { content }])

describe('reading', () => {
  test('each conversation gives what lies after its own position, oldest first, also from within a row', async ({
    world,
  }) => {
    const streams = await createStreamWorld(world)
    const [one, two, empty] = [await streams.conversation(), await streams.conversation(), await streams.conversation()]
    for (const size of [2, 3, 1]) {
      await streams.publish(one, some(size))
      await streams.publish(two, some(size))
    }
    const positions = [
      { ...one, after: 3 },
      { ...two, after: 5 },
      { ...empty, after: 0 },
    ]
    const ranges = rangesOf(await readLogs(streams.sql, positions))
    expect(ranges.get(one.conversationId)).toEqual([
      [3, 5],
      [6, 6],
    ])
    expect(ranges.get(two.conversationId)).toEqual([[6, 6]])
    expect(ranges.get(empty.conversationId)).toBeUndefined()
    expect(await readLogs(streams.sql, [{ ...one, after: 6 }])).toEqual([])
    expect(await readLogs(streams.sql, [])).toEqual([])
  })

  test("another organization's conversation of the same name is not read", async ({ world }) => {
    const streams = await createStreamWorld(world)
    const other = await createStreamWorld(world)
    const key = await streams.conversation()
    await streams.publish(key, some(1))
    const { organizationId } = await other.conversation()
    expect(await readLogs(streams.sql, [{ ...key, organizationId, after: 0 }])).toEqual([])
    expect(await readHeads(streams.sql, [{ ...key, organizationId }])).toEqual([])
  })

  test('one read brings a bounded number of rows and of bytes, and always the first row', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const [many, large, huge] = [
      await streams.conversation(),
      await streams.conversation(),
      await streams.conversation(),
    ]
    for (let i = 0; i < 70; i++) await streams.publish(many, some(1))
    for (let i = 0; i < 12; i++) await streams.publish(large, some(1, 'é'.repeat(50_000)))
    for (let i = 0; i < 2; i++) await streams.publish(huge, some(1, 'x'.repeat(3_000_000)))
    const positions = [many, large, huge].map((key) => ({ ...key, after: 0 }))
    const ranges = rangesOf(await readLogs(streams.sql, positions))
    expect(ranges.get(many.conversationId)).toHaveLength(64)
    expect(ranges.get(large.conversationId)).toHaveLength(6)
    expect(ranges.get(huge.conversationId)).toHaveLength(1)
  })

  test('heads say the last number and whether the conversation lives; what is gone is missing', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const [alive, ended, gone] = [
      await streams.conversation(),
      await streams.conversation(),
      await streams.conversation(),
    ]
    await streams.publish(alive, some(3))
    await streams.sql`update conversations set status = 'ended' where id = ${ended.conversationId}`
    await streams.sql`delete from conversations where id = ${gone.conversationId}`
    const heads = await readHeads(streams.sql, [alive, ended, gone])
    expect(heads).toHaveLength(2)
    expect(heads).toContainEqual({ ...alive, lastSeq: 3, ended: false })
    expect(heads).toContainEqual({ ...ended, lastSeq: 0, ended: true })
  })
})

describe('pruning', () => {
  test('removes the events of turns that ended long ago and notes how far it went', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    await endTurn(streams, key, { events: 3, agoMs: 2 * DAY_MS })
    await endTurn(streams, key, { events: 2, agoMs: 1.5 * DAY_MS })
    await endTurn(streams, key, { events: 2, agoMs: 0.5 * DAY_MS })
    await streams.publish(key, some(1))
    await prune(streams)
    expect(await stateOf(streams, key)).toEqual({ prunedSeq: 5, kept: [6, 7, 8] })
    await prune(streams)
    expect(await stateOf(streams, key)).toEqual({ prunedSeq: 5, kept: [6, 7, 8] })
  })

  test('never takes events of the turn that is unfinished, not even behind a run that was cancelled in its middle', async ({
    world,
  }) => {
    const streams = await createStreamWorld(world)
    const key = await streams.conversation()
    await endTurn(streams, key, { events: 2, agoMs: 3 * DAY_MS })
    await streams.publish(key, some(2))
    // Ended while it waited: its end lies among the events of the turn that runs, and moves no `end_seq`.
    await addEndedRun(streams, key, { turn: 9, endSeq: 4, agoMs: 2 * DAY_MS })
    await streams.publish(key, some(1))
    await prune(streams)
    expect(await stateOf(streams, key)).toEqual({ prunedSeq: 2, kept: [3, 4, 5] })

    await endTurn(streams, key, { events: 1, agoMs: 2 * DAY_MS })
    await prune(streams)
    expect(await stateOf(streams, key)).toEqual({ prunedSeq: 6, kept: [] })
  })

  test('takes at most so many turns, the oldest first, and says how many it took', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const keys = await Promise.all(Array.from({ length: 5 }, () => streams.conversation()))
    for (const [i, key] of keys.entries()) await endTurn(streams, key, { events: 1, agoMs: (1_000 - i) * DAY_MS })
    expect(await pruneLog(streams.sql, { keepMs: DAY_MS, turnsMax: 3 })).toBe(3)
    const kept = await Promise.all(keys.map((key) => stateOf(streams, key)))
    expect(kept.map(({ prunedSeq }) => prunedSeq)).toEqual([1, 1, 1, 0, 0])
    await prune(streams)
  })

  test('several replicas may prune at once', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const replica = await world.replica()
    const keys = await Promise.all(Array.from({ length: 30 }, () => streams.conversation()))
    await Promise.all(keys.map((key) => endTurn(streams, key, { events: 2, agoMs: 2 * DAY_MS })))
    await Promise.all(Array.from({ length: 4 }, () => pruneLog(replica.sql, { keepMs: DAY_MS, turnsMax: 10 })))
    await prune(streams)
    for (const key of keys) expect(await stateOf(streams, key)).toEqual({ prunedSeq: 2, kept: [] })
  })
})

describe('pruning beside others', () => {
  requirePostgres('the embedded engine runs one transaction at a time')

  test('waits for nobody: a conversation that is locked is left for later', async ({ world }) => {
    const streams = await createStreamWorld(world)
    const [busy, idle] = [await streams.conversation(), await streams.conversation()]
    for (const key of [busy, idle]) await endTurn(streams, key, { events: 1, agoMs: 2 * DAY_MS })
    const replica = await world.replica({ poolMax: 2 })
    await inTransaction(replica.sql, async (tx) => {
      await tx`select 1 from conversations where id = ${busy.conversationId} for no key update`
      await prune(streams)
    })
    expect([(await stateOf(streams, busy)).prunedSeq, (await stateOf(streams, idle)).prunedSeq]).toEqual([0, 1])
    await prune(streams)
    expect((await stateOf(streams, busy)).prunedSeq).toBe(1)
  })
})

async function prune({ sql }: StreamWorld) {
  while ((await pruneLog(sql, { keepMs: DAY_MS, turnsMax: 1_000 })) > 0);
}

async function endTurn(streams: StreamWorld, key: ConversationKey, args: { events: number; agoMs: number }) {
  const { lastSeq } = await streams.publish(key, some(args.events))
  const [conversation] = await streams.sql<{ turn: number }[]>`
    update conversations set end_seq = ${lastSeq}, last_turn = last_turn + 1
    where organization_id = ${key.organizationId} and id = ${key.conversationId} returning last_turn as turn`
  await addEndedRun(streams, key, { turn: conversation!.turn, endSeq: lastSeq, agoMs: args.agoMs })
}

async function addEndedRun(
  { sql }: StreamWorld,
  key: ConversationKey,
  { turn, endSeq, agoMs }: { turn: number; endSeq: number; agoMs: number },
) {
  await sql`
    insert into runs (organization_id, id, conversation_id, turn, message_id, state, start_seq, end_seq, ended_at)
    values (${key.organizationId}, gen_random_uuid(), ${key.conversationId}, ${turn}, gen_random_uuid()::text, 'completed',
      0, ${endSeq}, now() - ${agoMs} * interval '1 millisecond')`
}

async function stateOf({ sql }: StreamWorld, key: ConversationKey) {
  const [row] = await sql<{ prunedSeq: number }[]>`
    select pruned_seq as "prunedSeq" from conversations
    where organization_id = ${key.organizationId} and id = ${key.conversationId}`
  const rows = await readLogs(sql, [{ ...key, after: 0 }])
  const kept = rows.flatMap(({ firstSeq, lastSeq }) =>
    Array.from({ length: lastSeq - firstSeq + 1 }, (_, i) => firstSeq + i),
  )
  return { prunedSeq: row!.prunedSeq, kept }
}

function rangesOf(rows: Awaited<ReturnType<typeof readLogs>>) {
  const ranges = new Map<string, [number, number][]>()
  for (const { conversationId, firstSeq, lastSeq } of rows) {
    ranges.set(conversationId, [...(ranges.get(conversationId) ?? []), [firstSeq, lastSeq]])
  }
  return ranges
}
