import { randomUUID } from 'node:crypto'
import { describe, expect } from 'vitest'
import { requirePostgres, test, type World } from '../../tests/support/world.ts'
import type { Sql } from '../db/client.ts'
import { inTransaction } from '../db/transaction.ts'
import {
  buryCall,
  type ClaimedCall,
  claimCalls,
  completeCall,
  type Lane,
  postponeCall,
  promoteDueCalls,
  readReadyLanes,
} from './outbox.ts'

const leaseMs = 60_000

/** Calls of a kind of their own, so that the tests of this file do not see each other's. */
async function owe(sql: Sql, kind: string, { organizationId, targetHost }: Lane, count = 1): Promise<string[]> {
  const ids = Array.from({ length: count }, () => randomUUID())
  await sql`
    insert into outbox (organization_id, id, kind, target, payload)
    select ${organizationId}, id, ${kind}, ${`https://${targetHost}/hook?token=1`}, '{"finalText": "ü"}'::jsonb
    from unnest(${ids}::uuid[]) as id`
  return ids
}

async function oweOne(world: World) {
  const { sql } = await world.replica()
  const kind = world.unique('call')
  const lane = { organizationId: world.unique('org'), targetHost: 'a.example' }
  const [id] = await owe(sql, kind, lane)
  const claim = async () => (await claimCalls(sql, { kind, lanes: [{ ...lane, count: 9 }], leaseMs }))[0]
  const passTime = () => sql`update outbox set due_at = now() where kind = ${kind}`
  return { sql, kind, lane, id: id!, claim, passTime }
}

async function claimOne(claim: () => Promise<ClaimedCall | undefined>): Promise<ClaimedCall> {
  const call = await claim()
  if (!call) throw new Error('nothing to claim')
  return call
}

test('a claim brings what is needed to make the call, and takes it from all others', async ({ world }) => {
  const { id, lane, claim } = await oweOne(world)
  expect(await claim()).toEqual({
    ...lane,
    id,
    target: 'https://a.example/hook?token=1',
    payload: { finalText: 'ü' },
    traceparent: null,
    attempt: 1,
  })
  expect(await claim()).toBeUndefined()
})

describe('several replicas', () => {
  requirePostgres('one waits inside its transaction for the other')

  test('while one replica is still claiming, another gets other calls and does not wait', async ({ world }) => {
    const [a, b] = [await world.replica(), await world.replica()]
    const kind = world.unique('call')
    const lane = { organizationId: world.unique('org'), targetHost: 'a.example' }
    const ids = await owe(a.sql, kind, lane, 20)

    const args = { kind, lanes: [{ ...lane, count: 10 }], leaseMs }
    const calls = await inTransaction(a.sql, async (tx) => [
      ...(await claimCalls(tx, args)),
      ...(await claimCalls(b.sql, args)),
    ])

    expect(new Set(calls.map((call) => call.id))).toEqual(new Set(ids))
  })
})

test('a lapsed lease is taken over, and the late holder changes nothing', async ({ world }) => {
  const { sql, claim, passTime } = await oweOne(world)
  const late = await claimOne(claim)
  await promoteDueCalls(sql)
  expect(await claim()).toBeUndefined()

  await passTime()
  await promoteDueCalls(sql)
  const current = await claimOne(claim)

  expect(current.attempt).toBe(2)
  expect(await completeCall(sql, late)).toBe(false)
  expect(await postponeCall(sql, late, { delayMs: 0 })).toBe(false)
  expect(await buryCall(sql, late, { error: 'late', attempts: 1 })).toBe(false)
  expect(await completeCall(sql, current)).toBe(true)
})

test('a postponed call comes back when its time has come, and not before', async ({ world }) => {
  const { sql, id, claim, passTime } = await oweOne(world)
  const first = await claimOne(claim)
  expect(await postponeCall(sql, first, { delayMs: 3_600_000 })).toBe(true)
  await promoteDueCalls(sql)
  expect(await claim()).toBeUndefined()

  await passTime()
  await promoteDueCalls(sql)
  expect(await claim()).toMatchObject({ id, attempt: 2 })
})

test('a buried call is a dead letter with all that is needed to make it by hand', async ({ world }) => {
  const { sql, kind, lane, id, claim } = await oweOne(world)
  const call = await claimOne(claim)
  // The run that owes the call may have a dead letter of its own, under the very same id.
  await sql`
    insert into dead_letters (organization_id, id, queue, payload, error, attempts)
    values (${lane.organizationId}, ${id}, 'runs', '{}', 'lost', 3)`

  expect(await buryCall(sql, call, { error: 'it answered 500', attempts: 12 })).toBe(true)

  expect(await sql`select 1 from outbox where kind = ${kind}`).toHaveLength(0)
  expect([...(await sql`select payload, error, attempts from dead_letters where queue = ${kind}`)]).toEqual([
    {
      payload: { id, target: call.target, payload: call.payload, owedSince: expect.any(String) },
      error: 'it answered 500',
      attempts: 12,
    },
  ])
})

test('the lanes are walked in turn, each with its ready calls, up to a bound', async ({ world }) => {
  const { sql } = await world.replica()
  const kind = world.unique('call')
  const organization = world.unique('org')
  const lanes = ['a', 'b', 'c'].flatMap((org) =>
    ['x.example', 'y.example:8443'].map((targetHost) => ({ organizationId: `${organization}-${org}`, targetHost })),
  )
  for (const lane of lanes) await owe(sql, kind, lane, 5)
  const busy = lanes[0]!
  await claimCalls(sql, { kind, lanes: [{ ...busy, count: 4 }], leaseMs })
  await claimCalls(sql, { kind, lanes: [{ ...lanes[1]!, count: 5 }], leaseMs })

  const walked = []
  let after: Lane | null = null
  do {
    const look: Awaited<ReturnType<typeof readReadyLanes>> = await readReadyLanes(sql, {
      kind,
      after,
      lanesMax: 2,
      perLaneMax: 3,
    })
    expect(look.lanes.length).toBeLessThanOrEqual(2)
    walked.push(...look.lanes)
    after = look.last
  } while (after !== null)

  expect(walked).toEqual([{ ...busy, ready: 1 }, ...lanes.slice(2).map((lane) => ({ ...lane, ready: 3 }))])
})

test.for([
  ['https://Example.COM/path?q=//x/', 'example.com'],
  ['http://example.com:8080', 'example.com:8080'],
  ['http://[::1]:8080/', '[::1]:8080'],
  [`https://${'ü'.repeat(2000)}/`, 'ü'.repeat(253)],
  ['nonsense', ''],
])('%s lies in the lane %s', async ([target, host], { world }) => {
  const { sql } = await world.replica()
  const [row] = await sql`
    insert into outbox (organization_id, id, kind, target, payload)
    values (${world.unique('org')}, ${randomUUID()}, ${world.unique('call')}, ${target!}, '{}') returning target_host`
  expect(row).toEqual({ target_host: host })
})
