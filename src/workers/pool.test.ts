import { afterEach, describe, expect, it } from 'vitest'
import type { StepRecord } from './protocol.ts'
import {
  ANSWERS_AT_ONCE,
  createFakeModel,
  createListener,
  createScripts,
  isAlive,
  type RigOptions,
  runTurn,
  SPEAKS,
  saying,
  startRig,
  turnOf,
  until,
} from './test-rig.ts'

const rigs: Awaited<ReturnType<typeof startRig>>[] = []

async function rigOf(options: RigOptions = {}) {
  const rig = await startRig(options)
  rigs.push(rig)
  return rig
}

afterEach(async () => {
  await Promise.all(rigs.splice(0).map((rig) => rig.pool.stop()))
})

describe('a turn', () => {
  it('streams its text, is counted, and leaves the worker to the next turn of the conversation', async () => {
    const { model, calls } = saying('Hello', ' world')
    const rig = await rigOf({ requests: { model } })
    const first = await runTurn(rig)
    expect(first.end).toEqual({
      status: 'completed',
      usage: { inputTokens: 10, outputTokens: 5, cachedInputTokens: 4 },
    })
    expect(first.heard.text).toBe('Hello world')
    await runTurn(rig)
    expect(rig.pids()).toHaveLength(1)
    expect(rig.pool.has('org/conv')).toBe(true)
    expect(calls[0]!.path).toBe('/chat/completions')
    expect(calls[0]!.headers.authorization).toBe('Bearer lobu')
    expect(calls[0]!.body).toMatchObject({ model: 'demo', max_tokens: 100, stream: true })
  })

  it('saves each step before the next one begins', async () => {
    const order: string[] = []
    const { promise: secondCall, resolve: onSecondCall } = Promise.withResolvers<void>()
    const { model, calls } = createFakeModel((call) => {
      order.push(`model ${calls.length}`)
      if (calls.length === 1) call.callTool('current_time', { timeZone: 'Europe/Zurich' })
      else call.say('It is late.')
      call.finish(calls.length === 1 ? 'tool_calls' : 'stop')
      if (calls.length === 2) onSecondCall()
    })
    const saveStep = async ({ step }: StepRecord) => {
      // A worker that does not wait would be with the model long before this is over.
      await Promise.race([secondCall, new Promise((resolve) => setTimeout(resolve, 300))])
      order.push(`saved ${step}`)
      return 'saved' as const
    }
    const rig = await rigOf({ requests: { model, saveStep } })
    const { end, heard } = await runTurn(rig)
    expect(order).toEqual(['model 1', 'saved 1', 'model 2', 'saved 2'])
    expect(end).toMatchObject({ status: 'completed', usage: { inputTokens: 20 } })
    expect(heard.tools).toEqual(['current_time start', 'current_time end'])
  })

  it('hands over all text of a step before the step itself', async () => {
    const heard = createListener()
    const seen: string[] = []
    const { model } = createFakeModel(async (call) => {
      for (let i = 0; i < 200; i++) call.say(`${i} ${'x'.repeat(2000)}`)
      call.finish()
    })
    const saveStep = async (step: StepRecord) => {
      seen.push(heard.text, JSON.stringify(step.messages))
      return 'saved' as const
    }
    const rig = await rigOf({ requests: { model, saveStep } })
    await rig.pool.runTurn({ key: 'o/c', turn: turnOf(), on: heard.on, signal: new AbortController().signal })
    const [streamed, saved] = seen
    expect(JSON.parse(saved!)[0].content[0].text).toBe(streamed)
    expect(streamed!.length).toBeGreaterThan(400_000)
  })

  it('takes in what the user says between two steps', async () => {
    const { model, calls } = createFakeModel((call) => {
      if (calls.length === 1) call.callTool('current_time', {})
      else call.say('Fine.')
      call.finish(calls.length === 1 ? 'tool_calls' : 'stop')
    })
    const takeSteer = async () => [{ role: 'user' as const, content: 'In French, please' }]
    const rig = await rigOf({ requests: { model, takeSteer } })
    await runTurn(rig)
    expect(calls[1]!.messages.at(-1)).toMatchObject({ role: 'user', content: 'In French, please' })
  })

  it('stops when its run has passed to someone else', async () => {
    const { model, calls } = createFakeModel((call) => {
      call.callTool('current_time', {})
      call.finish('tool_calls')
    })
    const rig = await rigOf({ requests: { model, saveStep: async () => 'stale' } })
    const { end } = await runTurn(rig)
    expect(end).toMatchObject({ status: 'failed', error: { code: 'run_stale', retryable: false } })
    expect(calls).toHaveLength(1)
  })

  it('moves megabytes in both directions at once', async () => {
    const rig = await rigOf({ requests: { model: saying(...Array<string>(60).fill('y'.repeat(50_000))).model } })
    const question = { role: 'user' as const, content: 'z'.repeat(5_000_000) }
    const { end, heard } = await runTurn(rig, { turn: { messages: [question] } })
    expect(end.status).toBe('completed')
    expect(heard.text).toHaveLength(3_000_000)
  })

  it('fails when a step is larger than can be stored', async () => {
    const rig = await rigOf({ requests: { model: saying(...Array<string>(90).fill('y'.repeat(50_000))).model } })
    const { end } = await runTurn(rig)
    expect(end).toMatchObject({ status: 'failed', error: { code: 'step_too_large', retryable: false } })
  })

  it('fails as retryable when a step could not be saved', async () => {
    const rig = await rigOf({ requests: { saveStep: () => Promise.reject(new Error('no database')) } })
    expect((await runTurn(rig)).end).toMatchObject({
      status: 'failed',
      error: { code: 'step_not_saved', retryable: true },
    })
  })

  it('ends at the limit of steps', async () => {
    const { model, calls } = createFakeModel((call) => {
      call.callTool('current_time', {})
      call.finish('tool_calls')
    })
    const rig = await rigOf({ requests: { model } })
    const { end } = await runTurn(rig, { turn: { limits: { stepsMax: 3, outputTokensMax: 50 } } })
    expect(end).toMatchObject({ status: 'failed', error: { code: 'steps_exhausted', retryable: false } })
    expect(calls).toHaveLength(3)
  })

  it('holds the worker back while there is no room for its text, and loses none', async () => {
    const { model } = createFakeModel(async (call) => {
      for (let i = 0; i < 60; i++) call.say('x'.repeat(50_000))
      call.finish()
    })
    const rig = await rigOf({ requests: { model } })
    const heard = createListener()
    let looks = 0
    const on = { ...heard.on, hasRoom: () => heard.text.length < 100_000 || ++looks > 5 }
    await rig.pool.runTurn({ key: 'o/c', turn: turnOf(), on, signal: new AbortController().signal })
    expect(heard.text).toHaveLength(3_000_000)
    expect(looks).toBeGreaterThan(5)
  })
})

describe('cancelling', () => {
  it('lets nothing more through and resolves when the process and its model call are gone', async () => {
    let closed = false
    const { model } = createFakeModel((call) => {
      call.say('Once upon')
      call.res.once('close', () => {
        closed = !call.res.writableEnded
      })
    })
    const rig = await rigOf({ requests: { model } })
    const abort = new AbortController()
    const heard = createListener()
    const turn = rig.pool.runTurn({ key: 'o/c', turn: turnOf(), on: heard.on, signal: abort.signal })
    await until(() => heard.text === 'Once upon')
    abort.abort()
    expect(await turn).toMatchObject({ status: 'cancelled' })
    expect(isAlive(rig.pids()[0]!)).toBe(false)
    expect(closed).toBe(true)
    expect(rig.pool.has('o/c')).toBe(false)
    expect(rig.pool.free()).toBe(4)
  })

  it('does not wait for a worker that hangs in its start', async () => {
    const scripts = createScripts()
    const entry = scripts.write(`${SPEAKS} setInterval(() => {}, 1000)`)
    const rig = await rigOf({ entry, startMs: 600_000 })
    const abort = new AbortController()
    const turn = runTurn(rig, { signal: abort.signal })
    await until(() => rig.pids().length === 1)
    abort.abort()
    expect((await turn).end.status).toBe('cancelled')
    expect(isAlive(rig.pids()[0]!)).toBe(false)
    expect(rig.pool.free()).toBe(4)
    scripts.remove()
  })

  it('before a worker is there starts no turn', async () => {
    const { model, calls } = saying('Hi')
    const rig = await rigOf({ requests: { model } })
    const abort = new AbortController()
    const turn = runTurn(rig, { signal: abort.signal })
    abort.abort()
    expect((await turn).end.status).toBe('cancelled')
    expect(calls).toHaveLength(0)
  })
})

describe('the pool', () => {
  it('keeps a warm worker ready, adopts it, and starts the next', async () => {
    const rig = await rigOf({ warm: 1, args: ['demo'] })
    await until(() => rig.pool.snapshot().warm === 1)
    const [warm] = rig.pids()
    const { end } = await runTurn(rig)
    expect(end.status).toBe('completed')
    rig.pool.forget('org/conv')
    await until(() => !isAlive(warm!))
    await runTurn(rig)
    await until(() => rig.pool.snapshot().warm === 1)
    expect(rig.pool.snapshot()).toMatchObject({ workers: 2, busy: 0, max: 4, isolation: 'advisory' })
  })

  it('never has more processes than its maximum, and serves twenty conversations with three', async () => {
    const scripts = createScripts()
    const rig = await rigOf({ max: 3, busyMax: 10, entry: scripts.write(`${SPEAKS}\n${ANSWERS_AT_ONCE}`) })
    for (const key of ['org/x', 'org/y']) await runTurn(rig, { key })
    expect(rig.pool.free()).toBe(3)
    expect(rig.pool.snapshot()).toMatchObject({ max: 3, busyMax: 3 })
    const turns = Array.from({ length: 20 }, (_, i) => runTurn(rig, { key: `org/conv-${i}` }))
    expect(rig.pool.free()).toBe(0)
    const ends = await Promise.all(turns)
    scripts.remove()
    expect(ends.map(({ end }) => end.status)).toEqual(Array(20).fill('completed'))
    expect(rig.mostAlive()).toBe(3)
    expect(rig.pool.free()).toBe(3)
  })

  it('says how many turns it runs at once, where that is less than its workers', async () => {
    const rig = await rigOf({ max: 9, busyMax: 2 })
    expect(rig.pool.snapshot()).toMatchObject({ max: 9, busyMax: 2 })
    expect(rig.pool.free()).toBe(2)
  })

  it('never gives a worker of one conversation to another', async () => {
    const rig = await rigOf({ max: 1 })
    await runTurn(rig, { key: 'org/a' })
    await runTurn(rig, { key: 'org/b' })
    expect(new Set(rig.pids()).size).toBe(2)
    expect(rig.pool.has('org/a')).toBe(false)
    expect(isAlive(rig.pids()[0]!)).toBe(false)
  })

  it('stops a worker that was idle for long enough', async () => {
    const rig = await rigOf({ idleMs: 50 })
    await runTurn(rig)
    await until(() => rig.pool.snapshot().workers === 0)
    expect(isAlive(rig.pids()[0]!)).toBe(false)
  })

  it('forgets an idle conversation', async () => {
    const rig = await rigOf()
    await runTurn(rig)
    rig.pool.forget('org/conv')
    expect(rig.pool.has('org/conv')).toBe(false)
    await until(() => !isAlive(rig.pids()[0]!))
  })

  it('ends a turn of the same conversation that still runs before it begins the next', async () => {
    const { model } = createFakeModel((call) => {
      call.say('one')
      if (calls() > 1) call.finish()
    })
    let count = 0
    const calls = () => ++count
    const rig = await rigOf({ requests: { model } })
    const heard = createListener()
    const signal = new AbortController().signal
    const old = rig.pool.runTurn({ key: 'o/c', turn: turnOf({ fence: 1 }), on: heard.on, signal })
    await until(() => heard.text !== '')
    const next = await rig.pool.runTurn({ key: 'o/c', turn: turnOf({ fence: 2 }), on: createListener().on, signal })
    expect((await old).status).toBe('lost')
    expect(next.status).toBe('completed')
    expect(rig.pids()).toHaveLength(2)
  })

  it('that stops in the moment in which a turn begins starts no worker any more', async () => {
    const scripts = createScripts()
    const entry = scripts.write(`${SPEAKS}\n${ANSWERS_AT_ONCE}`)
    for (let ticks = 0; ticks < 6; ticks++) {
      const rig = await rigOf({ entry })
      const turn = runTurn(rig)
      for (let tick = 0; tick < ticks; tick++) await Promise.resolve()
      const launched = rig.launches()
      await rig.pool.stop()
      expect(rig.launches()).toBe(launched)
      expect(rig.pids().filter(isAlive)).toEqual([])
      expect((await turn).end.error?.code).toBe('gateway_stopping')
    }
    scripts.remove()
  })

  it('stops in order: running turns are lost, processes gone, later turns refused', async () => {
    const { model } = createFakeModel((call) => call.say('thinking'))
    const rig = await rigOf({ warm: 1, args: ['demo'], requests: { model } })
    const heard = createListener()
    const signal = new AbortController().signal
    const turn = rig.pool.runTurn({ key: 'o/c', turn: turnOf(), on: heard.on, signal })
    await until(() => heard.text !== '' && rig.pool.snapshot().warm === 1)
    await rig.pool.stop()
    expect(rig.pids().filter(isAlive)).toEqual([])
    expect(await turn).toMatchObject({ status: 'lost', error: { code: 'gateway_stopping' } })
    expect((await runTurn(rig)).end).toMatchObject({ status: 'lost', error: { code: 'gateway_stopping' } })
    expect(rig.pool.free()).toBe(0)
    await rig.pool.stop()
  })
})
