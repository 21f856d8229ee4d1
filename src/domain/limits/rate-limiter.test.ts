import { describe, expect } from 'vitest'
import { createScene, type Scene } from '../../../tests/support/scene.ts'
import { requirePostgres, test, type World } from '../../../tests/support/world.ts'
import type { Database, Sql } from '../../db/client.ts'
import { createLimitBook, type DefaultLimits } from './limits.ts'
import { createRateLimiter, type RateLimiter } from './rate-limiter.ts'

requirePostgres('replicas take tokens on connections of their own')

const UNLIMITED: DefaultLimits = { requestsPerMinute: null, keyRequestsPerMinute: null, runsMax: null }

/** So many replicas with the same settings, each with what only it knows. */
async function createReplicas(world: World, count: number, defaults: Partial<DefaultLimits>) {
  const databases: Database[] = await Promise.all(Array.from({ length: count }, () => world.replica()))
  return databases.map(({ sql }) => limiterOn(sql, { ...UNLIMITED, ...defaults }))
}

function limiterOn(sql: Sql, defaults: DefaultLimits) {
  return createRateLimiter({ sql, limits: createLimitBook({ sql }, defaults) })
}

const keyOf = ({ organizationId }: Scene, credentialId = 'key_1') => ({
  organizationId,
  credentialId,
  kind: 'key' as const,
})

/** So many requests at once, spread over the replicas; returns how many were let through. */
async function flood(replicas: RateLimiter[], actor: ReturnType<typeof keyOf>, count: number): Promise<number> {
  const outcomes = await Promise.allSettled(
    Array.from({ length: count }, (_, at) => replicas[at % replicas.length]!.admit(actor)),
  )
  for (const outcome of outcomes) {
    if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'rate_limited' })
  }
  return outcomes.filter((outcome) => outcome.status === 'fulfilled').length
}

/** Stops the clock of a bucket for the length of a test: what it gets in a minute comes after that. */
async function stopRefill({ sql, organizationId }: Scene) {
  await sql`update rate_buckets set refilled_at = now() + interval '1 hour' where organization_id = ${organizationId}`
}

/** A bucket that is full and gets nothing more. */
async function fill(scene: Scene, tokens: number, subject = 'organization') {
  await scene.sql`
    insert into rate_buckets (organization_id, subject, tokens, refilled_at)
    values (${scene.organizationId}, ${subject}, ${tokens}, now() + interval '1 hour')
    on conflict (organization_id, subject) do update set tokens = excluded.tokens, refilled_at = excluded.refilled_at`
}

describe('a limit over three replicas', () => {
  test.for([1, 10, 199])('of %i is exactly that', async (limit, { world }) => {
    const scene = await createScene(world)
    const replicas = await createReplicas(world, 3, { requestsPerMinute: limit })
    await fill(scene, limit)
    expect(await flood(replicas, keyOf(scene), limit + 60)).toBe(limit)
    expect(await flood(replicas, keyOf(scene), 30)).toBe(0)
  })

  test('that is large is missed by no more than a hundredth of it for each replica', async ({ world }) => {
    const scene = await createScene(world)
    const limit = 1_000
    const replicas = await createReplicas(world, 3, { requestsPerMinute: limit })
    // Each replica holds what it took ahead, and then the bucket is full again.
    await fill(scene, limit)
    for (const replica of replicas) expect(await flood([replica], keyOf(scene), 1)).toBe(1)
    await fill(scene, limit)
    const admitted = await flood(replicas, keyOf(scene), 1_400)
    expect(Math.abs(admitted - limit)).toBeLessThanOrEqual(3 * 10)
  })

  test('gets its part of a minute back as time goes by, and never more than a minute of it', async ({ world }) => {
    const scene = await createScene(world)
    const replicas = await createReplicas(world, 3, { requestsPerMinute: 60 })
    expect(await flood(replicas, keyOf(scene), 60)).toBe(60)
    const wait = (seconds: number) => scene.sql`
      update rate_buckets set tokens = 0, refilled_at = clock_timestamp() - ${seconds} * interval '1 second'
      where organization_id = ${scene.organizationId}`
    for (const [seconds, expected] of [
      [10, 10],
      [3_600, 60],
    ] as const) {
      await wait(seconds)
      // Replicas that have seen the bucket empty do not ask for a moment; fresh ones do.
      const fresh = await createReplicas(world, 3, { requestsPerMinute: 60 })
      const admitted = await flood(fresh, keyOf(scene), 100)
      expect(admitted).toBeGreaterThanOrEqual(expected)
      expect(admitted).toBeLessThanOrEqual(expected + 2)
    }
  })
})

describe('a request that is refused', () => {
  test('is told when to come again', async ({ world }) => {
    const scene = await createScene(world)
    const [replica] = await createReplicas(world, 1, { requestsPerMinute: 2 })
    await flood([replica!], keyOf(scene), 2)
    const refused = await replica!.admit(keyOf(scene)).catch((error: unknown) => error)
    expect(refused).toMatchObject({ code: 'rate_limited', details: { limit: 2, windowSeconds: 60 } })
    const { retryAfterSeconds } = refused as { retryAfterSeconds: number }
    expect(retryAfterSeconds).toBeGreaterThan(25)
    expect(retryAfterSeconds).toBeLessThanOrEqual(30)
  })

  test('costs the database nothing while the bucket is known to be empty', async ({ world }) => {
    const scene = await createScene(world)
    const { sql, statements } = counting((await world.replica()).sql)
    const replica = limiterOn(sql, { ...UNLIMITED, requestsPerMinute: 1 })
    await flood([replica], keyOf(scene), 3)
    const before = statements()
    expect(await flood([replica], keyOf(scene), 100)).toBe(0)
    expect(statements()).toBe(before)
  })

  test('by its key takes nothing from the others of its organization', async ({ world }) => {
    const scene = await createScene(world)
    const replicas = await createReplicas(world, 3, { requestsPerMinute: 20, keyRequestsPerMinute: 5 })
    await flood(replicas, keyOf(scene), 1)
    await stopRefill(scene)
    expect(await flood(replicas, keyOf(scene), 100)).toBe(4)
    expect(await flood(replicas, keyOf(scene, 'key_2'), 100)).toBe(5)
    expect(await flood(replicas, keyOf(scene, 'key_3'), 100)).toBe(5)
    expect(await flood(replicas, keyOf(scene, 'key_4'), 100)).toBe(5)
    expect(await flood(replicas, keyOf(scene, 'key_5'), 100)).toBe(0)
  })

  test('is no concern of another organization with the same key id', async ({ world }) => {
    const [scene, other] = [await createScene(world), await createScene(world)]
    const replicas = await createReplicas(world, 3, { keyRequestsPerMinute: 2 })
    expect(await flood(replicas, keyOf(scene), 10)).toBe(2)
    expect(await flood(replicas, keyOf(other), 10)).toBe(2)
  })
})

test('a limit of the organization itself comes before the setting, and counts at once', async ({ world }) => {
  const scene = await createScene(world)
  const { sql } = await world.replica()
  const limits = createLimitBook({ sql }, { ...UNLIMITED, requestsPerMinute: 5 })
  const replica = createRateLimiter({ sql, limits })
  await flood([replica], keyOf(scene), 1)
  await scene.sql`
    insert into organization_limits (organization_id, requests_per_minute) values (${scene.organizationId}, 3)`
  limits.forget()
  await stopRefill(scene)
  expect(await flood([replica], keyOf(scene), 10)).toBe(3)
})

test('without a limit nothing is asked but once in a while whether there is one', async ({ world }) => {
  const scene = await createScene(world)
  const { sql, statements } = counting((await world.replica()).sql)
  const replica = limiterOn(sql, UNLIMITED)
  expect(await flood([replica], keyOf(scene), 500)).toBe(500)
  expect(statements()).toBe(1)
})

test('a session token counts for its organization, not for a key', async ({ world }) => {
  const scene = await createScene(world)
  const [replica] = await createReplicas(world, 1, { requestsPerMinute: 9, keyRequestsPerMinute: 1 })
  const session = { ...keyOf(scene), kind: 'session' as const }
  expect(await replica!.admit(session)).toMatchObject({ limit: 9, remaining: 8 })
})

test('requests that come together are counted together', async ({ world }) => {
  const scene = await createScene(world)
  const { sql, statements } = counting((await world.replica()).sql)
  const replica = limiterOn(sql, { ...UNLIMITED, requestsPerMinute: 150 })
  expect(await flood([replica], keyOf(scene), 100)).toBe(100)
  // What the limits are; the bucket is made; then one statement for the first request and one for the rest.
  expect(statements()).toBeLessThanOrEqual(5)
})

/** The same pool, and how many statements have gone through it. */
function counting(sql: Sql) {
  let count = 0
  const counted = Object.assign((...args: unknown[]) => {
    const query = (sql as unknown as (...args: unknown[]) => object)(...args)
    return new Proxy(query, {
      get(target, name) {
        if (name === 'then') count++
        const value = Reflect.get(target, name)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
  }, sql)
  return { sql: counted as unknown as Sql, statements: () => count }
}
