import { describe, expect } from 'vitest'
import { completesOf, createScene, replyBatch, type Scene, textOfEvents } from '../../../tests/support/scene.ts'
import { requirePostgres, test } from '../../../tests/support/world.ts'
import { type ClaimedRun, claimReadyRuns, releaseRun } from '../../queue/runs.ts'
import { insertReplies } from '../../queue/thread-response.ts'
import { cancelRuns } from './cancel.ts'
import { takeSteerMessages } from './steer.ts'

requirePostgres('cancelling races with claims and replies on other connections')

function cancel(scene: Scene, run: { conversationId: string }, named: { runId?: string; messageId?: string } = {}) {
  return cancelRuns(scene, { organizationId: scene.organizationId, conversationId: run.conversationId, ...named })
}

test('after the answer nothing more of the run appears, whatever its worker still sends', async ({ world }) => {
  const scene = await createScene(world)
  const [worker, canceller] = [await world.replica(), await world.replica()]
  for (let i = 0; i < 10; i++) {
    const run = await scene.start(await scene.open())
    let refused = false
    const working = (async () => {
      for (let batch = 1; !refused; batch++) {
        const stored = await insertReplies(worker.sql, [replyBatch(run, batch, [`output {"messageId":"x"}`])])
        refused = stored.size === 0
        await scene.publish()
      }
    })()
    const key = { organizationId: scene.organizationId, conversationId: run.conversationId }
    expect(await cancelRuns({ sql: canceller.sql, signals: scene.signals }, key)).toHaveLength(1)
    const atAnswer = await scene.events(run.conversationId)
    await working
    await scene.publish()

    expect(atAnswer.at(-1)!.name).toBe('complete')
    expect(await scene.events(run.conversationId)).toEqual(atAnswer)
    expect(scene.signals.ended).toContain(run.id)
  }
})

describe('a run that has not started', () => {
  test.for(['ready', 'delayed', 'queued'])('is cancelled and never starts (%s)', async (state, { world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    if (state === 'queued') await scene.start(conversation)
    const { runId, messageId } = await scene.post(conversation)
    if (state === 'delayed') {
      await releaseRun(scene.sql, await scene.claimOne(), { delayMs: 3_600_000, countAttempt: true })
    }
    expect(await scene.stateOf(runId)).toBe(state)

    expect(await cancel(scene, { conversationId: conversation }, { messageId })).toMatchObject([
      { id: runId, messageId },
    ])
    expect(await scene.stateOf(runId)).toBe('cancelled')
    expect(await scene.claim()).toEqual([])
    expect(completesOf(await scene.events(conversation))).toMatchObject([{ messageId, status: 'cancelled' }])
  })

  test('is cancelled although a replica is claiming it at that moment', async ({ world }) => {
    const scene = await createScene(world)
    const conversation = await scene.open()
    await scene.post(conversation)
    const other = await world.replica()
    const claimed: ClaimedRun[] = []
    const args = { replica: 'other', limit: 1, leaseMs: 60_000, organizationMax: 9, afterOrganization: '' }
    const claiming = await scene.hold(other.sql, async (tx) => claimed.push(...(await claimReadyRuns(tx, args))))

    const cancelling = cancel(scene, { conversationId: conversation })
    await scene.lockWaiters(1)
    await claiming.release()
    expect(await cancelling).toHaveLength(1)
    expect(await scene.say(claimed[0]!, 'too late')).toBe(false)
    const [row] = await scene.sql`select end_seq, last_seq from conversations where id = ${conversation}`
    expect(row).toEqual({ end_seq: 1, last_seq: 1 })
  })
})

describe('a queued run that is cancelled in the middle of an active turn', () => {
  async function cancelBehind(scene: Scene) {
    const active = await scene.start(await scene.open())
    const queued = await scene.post(active.conversationId)
    const last = await scene.post(active.conversationId)
    await scene.say(active, 'one ')
    await cancel(scene, active, { runId: queued.runId })
    return { active, queued, last }
  }

  test('ends alone: the active turn goes on, and the one behind keeps waiting', async ({ world }) => {
    const scene = await createScene(world)
    const { active, queued, last } = await cancelBehind(scene)

    expect(scene.signals.ended).toEqual([queued.runId])
    expect(scene.signals.ready).toEqual([])
    expect(await scene.stateOf(last.runId)).toBe('queued')
    expect(await scene.say(active, 'two')).toBe(true)
    await scene.end(active)
    const events = await scene.events(active.conversationId)
    expect(completesOf(events)).toMatchObject([
      { messageId: queued.messageId, status: 'cancelled', finalText: '' },
      { messageId: active.messageId, status: 'completed', finalText: 'one two' },
    ])
    expect((await scene.claimOne()).id).toBe(last.runId)
  })

  test('leaves the active turn where it began for a fresh stream', async ({ world }) => {
    const scene = await createScene(world)
    const { active } = await cancelBehind(scene)

    const { after } = await scene.follow(active.conversationId)
    expect(textOfEvents(await scene.events(active.conversationId, after), active.messageId)).toBe('one ')
  })
})

describe('what is named', () => {
  test('cancels all of the conversation when nothing is', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    const waiting = [await scene.post(run.conversationId), await scene.post(run.conversationId)]

    const ended = await cancel(scene, run)
    expect(ended.map((one) => one.id)).toEqual([waiting[1]!.runId, waiting[0]!.runId, run.id])
    expect(await scene.claim()).toEqual([])
    expect(await cancel(scene, run)).toEqual([])
    const [row] = await scene.sql`select open_runs from conversations where id = ${run.conversationId}`
    expect(row).toEqual({ open_runs: 0 })
  })

  test('lets the next message go when it was the running one', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    const next = await scene.post(run.conversationId)

    await cancel(scene, run, { messageId: run.messageId })
    expect(scene.signals.ready).toEqual([undefined])
    expect((await scene.claimOne()).id).toBe(next.runId)
  })

  test('stays as it ended when it had ended before', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    await scene.end(run)

    expect(await cancel(scene, run, { runId: run.id })).toEqual([])
    expect(await scene.stateOf(run.id)).toBe('completed')
    expect(completesOf(await scene.events(run.conversationId))).toHaveLength(1)
  })

  test('is not found when this conversation does not have it', async ({ world }) => {
    const [scene, foreign] = [await createScene(world), await createScene(world)]
    const run = await scene.start(await scene.open())
    const [elsewhere, theirs] = [await scene.start(await scene.open()), await foreign.start(await foreign.open())]

    for (const runId of [elsewhere.id, theirs.id, 'no-uuid', '']) {
      await expect(cancel(scene, run, { runId })).rejects.toMatchObject({ code: 'not_found' })
    }
    for (const messageId of [elsewhere.messageId, theirs.messageId, '']) {
      await expect(cancel(scene, run, { messageId })).rejects.toMatchObject({ code: 'not_found' })
    }
    expect(await scene.stateOf(elsewhere.id)).toBe('running')
    expect(await foreign.stateOf(theirs.id)).toBe('running')
  })
})

describe('a message that was taken into a running turn', () => {
  test('ends the turn that took it', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    const steered = await scene.post(run.conversationId, { onBusy: 'steer' })
    await takeSteerMessages(scene.sql, run)

    const ended = await cancel(scene, run, { messageId: steered.messageId })
    expect(ended.map((one) => one.id).sort()).toEqual([run.id, steered.runId].sort())
  })

  test('is cancelled too when it is taken at that very moment', async ({ world }) => {
    const scene = await createScene(world)
    const run = await scene.start(await scene.open())
    const steered = await scene.post(run.conversationId, { onBusy: 'steer' })
    const [holder, worker, canceller] = await Promise.all([world.replica(), world.replica(), world.replica()])

    const locked = await scene.hold(
      holder.sql,
      (tx) => tx`select 1 from conversations where id = ${run.conversationId} for update`,
    )
    const steering = takeSteerMessages(worker.sql, run)
    await scene.lockWaiters(1)
    const key = { organizationId: scene.organizationId, conversationId: run.conversationId, runId: steered.runId }
    const cancelling = cancelRuns({ sql: canceller.sql, signals: scene.signals }, key)
    await scene.lockWaiters(2)
    await locked.release()

    await steering
    expect((await cancelling).map((one) => one.id)).toContain(steered.runId)
    expect(await scene.stateOf(steered.runId)).toBe('cancelled')
  })
})
