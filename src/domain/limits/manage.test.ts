import { describe, expect } from 'vitest'
import { createScene, type Scene, USAGE } from '../../../tests/support/scene.ts'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import { scopeToOrganization } from '../../db/tenant.ts'
import { type Actor, actorWithAll } from '../accounts/actor.ts'
import { permissionsWithin } from '../accounts/permissions.ts'
import { type PostMessage, postMessage } from '../messages/post.ts'
import { saveStep } from '../runs/save-step.ts'
import { rollUpUsage } from '../usage/roll-up.ts'
import { createBacklog } from './backlog.ts'
import { createBudgets } from './budget.ts'
import { createLimitBook, NO_LIMITS } from './limits.ts'
import { getLimits, setLimits } from './manage.ts'

requirePostgres('replicas see what another has changed')

const SETTINGS = { requestsPerMinute: 600, keyRequestsPerMinute: null, runsMax: 200 }
const RUNNER = { reserve: () => false, settle() {}, hasWorker: () => false }
const OPTIONS = { replica: 'replica-1', leaseMs: 60_000, depthMax: 100, organizationMax: 1_000, workerIdleMs: 60_000 }

const as = (scene: Scene, role: 'admin' | 'member' | 'viewer'): Actor => ({
  ...scene.actor,
  role,
  permissions: permissionsWithin(role, ['*']),
})

const set = (scene: Scene, limits: Partial<typeof NO_LIMITS>, actor = scene.actor) =>
  setLimits(scene, { actor, limits: { ...NO_LIMITS, ...limits } }, SETTINGS)

/** One turn of one step: 8 tokens, 7 millionths. */
async function use(scene: Scene) {
  const run = await scene.start(await scene.open())
  const messages = [{ role: 'assistant' as const, content: 'An answer.' }]
  await saveStep(scene.sql, run, { step: 1, messages, usage: USAGE, model: 'demo/demo', costMicros: 7 })
  return run
}

describe('the limits of an organization', () => {
  test('are shown with what is in force and what is used', async ({ world }) => {
    const scene = await createScene(world)
    await scene.end(await use(scene))
    await rollUpUsage(scene.sql)
    await use(scene)
    await set(scene, { runsMax: 3, tokensPerMonth: 1_000 })

    const scoped = scopeToOrganization(scene.sql, scene.organizationId)
    expect(await getLimits(scoped, { actor: as(scene, 'viewer') }, SETTINGS)).toEqual({
      limits: { ...NO_LIMITS, runsMax: 3, tokensPerMonth: 1_000 },
      inForce: { ...NO_LIMITS, requestsPerMinute: 600, runsMax: 3, tokensPerMonth: 1_000 },
      used: {
        month: new Date().toISOString().slice(0, 7),
        tokens: 16,
        costMicros: 14,
        secondsLeft: expect.any(Number),
        runsActive: 1,
      },
    })
  })

  test('are changed by those who may, for every replica, and on record', async ({ world }) => {
    const scene = await createScene(world)
    for (const role of ['member', 'viewer'] as const) {
      await expect(set(scene, { runsMax: 1 }, as(scene, role))).rejects.toMatchObject({ code: 'forbidden' })
    }
    await set(scene, { runsMax: 1 }, as(scene, 'admin'))
    expect(scene.signals.access).toEqual(['changed'])
    expect(
      await scene.sql`select action, details from audit_log where organization_id = ${scene.organizationId}`,
    ).toMatchObject([{ action: 'limits.changed', details: { before: { runsMax: null }, after: { runsMax: 1 } } }])
  })

  test('stay within what the settings give everybody, but for what an operator has given', async ({ world }) => {
    const scene = await createScene(world)
    await expect(set(scene, { runsMax: 201 })).rejects.toMatchObject({ code: 'invalid_request' })
    await expect(set(scene, { requestsPerMinute: 601 })).rejects.toMatchObject({ code: 'invalid_request' })
    await set(scene, { requestsPerMinute: 600, keyRequestsPerMinute: 1_000_000, runsMax: 200 })

    await scene.sql`
      update organization_limits set runs_max = 500 where organization_id = ${scene.organizationId}`
    await set(scene, { runsMax: 500, tokensPerMonth: 5 })
    await expect(set(scene, { runsMax: 499 })).rejects.toMatchObject({ code: 'invalid_request' })
  })

  test('leave what is not theirs alone, and other organizations too', async ({ world }) => {
    const [scene, other] = [await createScene(world), await createScene(world)]
    await scene.sql`
      insert into organization_limits (organization_id, audit_keep_days)
      values (${scene.organizationId}, 30), (${other.organizationId}, 40)`
    const scoped = scopeToOrganization(scene.sql, scene.organizationId)
    await setLimits({ ...scene, sql: scoped }, { actor: scene.actor, limits: { ...NO_LIMITS, runsMax: 2 } }, SETTINGS)
    const rows = await scene.sql`
      select audit_keep_days as days, runs_max as max from organization_limits
      where organization_id in (${scene.organizationId}, ${other.organizationId}) order by audit_keep_days`
    expect(rows).toEqual([
      { days: 30, max: 2 },
      { days: 40, max: null },
    ])
    // The second wall: somebody else's actor on this organization's view of the database finds and changes nothing.
    for (const table of ['organization_limits', 'usage_steps', 'usage_months', 'usage_days', 'rate_buckets']) {
      expect(await scoped`select 1 from ${scoped(table)} where organization_id = ${other.organizationId}`).toEqual([])
    }
    const stranger = actorWithAll({ ...other.actor })
    await expect(
      setLimits({ ...scene, sql: scoped }, { actor: stranger, limits: NO_LIMITS }, SETTINGS),
    ).rejects.toMatchObject({ code: '42501' })
  })
})

describe('a budget', () => {
  const post = (scene: Scene, conversationId: string, over: Partial<PostMessage> = {}) => {
    const budgets = createBudgets({ sql: scene.sql, limits: createLimitBook(scene, SETTINGS) })
    const message = { actor: scene.actor, conversationId, content: 'hello', onBusy: 'enqueue' as const, origin: {} }
    const backlog = createBacklog(scene, { max: 1_000 })
    return postMessage({ ...scene, runner: RUNNER, budgets, backlog }, { ...message, files: [], ...over }, OPTIONS)
  }

  test.for([
    ['tokens', { tokensPerMonth: 16 }],
    ['cost', { costMicrosPerMonth: 14 }],
  ] as const)(
    'of %s refuses what comes when it is used up, and stores nothing of it',
    async ([, budget], { world }) => {
      const scene = await createScene(world)
      await set(scene, budget)
      const conversation = await scene.open()
      await scene.end(await use(scene))
      const accepted = await post(scene, conversation, { messageId: 'early' })
      await use(scene)

      const refused = await post(scene, conversation).catch((error: unknown) => error)
      expect(refused).toMatchObject({ code: 'budget_exhausted' })
      const { retryAfterSeconds } = refused as { retryAfterSeconds: number }
      expect(retryAfterSeconds).toBeGreaterThan(0)
      expect(retryAfterSeconds).toBeLessThanOrEqual(86_400)
      const stored = await scene.sql`
      select id from messages where organization_id = ${scene.organizationId} and conversation_id = ${conversation}`
      expect(stored).toEqual([{ id: 'early' }])
      // What was accepted before keeps its answer.
      expect(await post(scene, conversation, { messageId: 'early' })).toMatchObject({ runId: accepted.runId })
      // More budget lets messages in again, and another organization was never concerned.
      await set(scene, { tokensPerMonth: 1_000 })
      expect(await post(scene, conversation)).toMatchObject({ duplicate: false })
    },
  )

  test('counts the running month alone', async ({ world }) => {
    const scene = await createScene(world)
    const { sql, organizationId } = scene
    await set(scene, { tokensPerMonth: 10 })
    await sql`
      insert into usage_months (organization_id, month, tokens)
      values (${organizationId}, (date_trunc('month', now() at time zone 'utc') - interval '1 month')::date, 1000000)`
    const run = await use(scene)
    await sql`update usage_steps set day = day - 40, input_tokens = 1000000 where organization_id = ${organizationId}`
    await scene.end(run)
    expect(await post(scene, await scene.open())).toMatchObject({ duplicate: false })
    await rollUpUsage(sql)
    expect(await post(scene, await scene.open())).toMatchObject({ duplicate: false })
  })
})
