import { Writable } from 'node:stream'
import { pino } from 'pino'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createLoop } from './loop.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const MINUTE_MS = 60_000

test('rings during a pass cause exactly one more', async () => {
  const { loop, passes, finish } = createGatedLoop()
  await loop.start()
  await vi.waitFor(() => expect(passes()).toBe(1))
  for (let i = 0; i < 5; i++) loop.ring()
  finish()
  await vi.waitFor(() => expect(passes()).toBe(2))
  finish()
  await vi.advanceTimersByTimeAsync(0.8 * MINUTE_MS - 1)
  expect(passes()).toBe(2)
  const stopped = loop.stop()
  finish()
  await stopped
})

test('a ring before the start is not lost, and one when idle causes a pass at once', async () => {
  const pass = vi.fn(async () => {})
  const { loop } = createQuietLoop(pass)
  loop.ring()
  expect(pass).not.toHaveBeenCalled()
  await loop.start()
  await vi.advanceTimersByTimeAsync(0)
  expect(pass).toHaveBeenCalledTimes(2)
  loop.ring()
  await vi.advanceTimersByTimeAsync(0)
  expect(pass).toHaveBeenCalledTimes(3)
  await loop.stop()
})

test('without rings a pass comes after each period, which is asked for anew each time', async () => {
  let everyMs = 1_000
  const pass = vi.fn(async () => {})
  const loop = createLoop({ log: silent() }, { name: 'test', everyMs: () => everyMs, pass })
  await loop.start()
  await vi.advanceTimersByTimeAsync(0)
  expect(pass).toHaveBeenCalledTimes(1)
  everyMs = 10_000
  await vi.advanceTimersByTimeAsync(1_200)
  expect(pass).toHaveBeenCalledTimes(2)
  await vi.advanceTimersByTimeAsync(7_500)
  expect(pass).toHaveBeenCalledTimes(2)
  await vi.advanceTimersByTimeAsync(4_600)
  expect(pass).toHaveBeenCalledTimes(3)
  await loop.stop()
})

test('a pass that says there is more is followed by the next without a wait', async () => {
  let left = 50
  const pass = vi.fn(async () => --left > 0)
  const { loop } = createQuietLoop(pass)
  await loop.start()
  await vi.advanceTimersByTimeAsync(0)
  expect(pass).toHaveBeenCalledTimes(50)
  await loop.stop()
})

test('a pass that throws is logged without its parameters and tried again; it never ends the loop', async () => {
  const lines: Record<string, unknown>[] = []
  const pass = vi.fn(async () => {
    if (pass.mock.calls.length <= 20) throw new Error('nobody home')
  })
  const loop = createLoop({ log: recording(lines) }, { name: 'fragile', everyMs: MINUTE_MS, pass })
  await loop.start()
  await vi.advanceTimersByTimeAsync(20 * 2_000)
  expect(pass).toHaveBeenCalledTimes(21)
  expect(lines.map(({ failures }) => failures)).toEqual([1, 2, 4, 8, 16])
  expect(lines[4]).toMatchObject({ loop: 'fragile', failures: 16, err: 'Error: nobody home' })
  await loop.stop()
})

test('rings do not cut the wait after a failure: a database that is away is not hammered, nor the log', async () => {
  const pass = vi.fn(async () => {
    throw new Error('away')
  })
  const { loop } = createQuietLoop(pass)
  await loop.start()
  for (let ms = 0; ms < 4_000; ms += 5) {
    loop.ring()
    await vi.advanceTimersByTimeAsync(5)
  }
  // 0, then waits of at least 50, 100, 200, 400, 800 and from then on 1,000 ms.
  expect(pass.mock.calls.length).toBeLessThanOrEqual(9)
  expect(pass.mock.calls.length).toBeGreaterThanOrEqual(5)
  await loop.stop()
})

test('an outage of an hour is a few lines and not thousands, and another fault in it is told at once', async () => {
  const lines: Record<string, unknown>[] = []
  let fault = 'away'
  const pass = async () => {
    throw new Error(fault)
  }
  const loop = createLoop({ log: recording(lines) }, { name: 'test', everyMs: 1_000, pass })
  await loop.start()
  await vi.advanceTimersByTimeAsync(60 * MINUTE_MS)
  expect(lines.length).toBeGreaterThan(5)
  expect(lines.length).toBeLessThan(20)
  fault = 'broken'
  await vi.advanceTimersByTimeAsync(2_000)
  expect(lines.at(-1)).toMatchObject({ loop: 'test', err: 'Error: broken' })
  await loop.stop()
})

test('the age grows while passes throw or hang, and falls with a good one', async () => {
  let outcome: 'good' | 'throws' | 'hangs' = 'good'
  let release = () => {}
  const { loop } = createQuietLoop(async () => {
    if (outcome === 'throws') throw new Error('bad')
    if (outcome === 'hangs') await new Promise<void>((resolve) => (release = resolve))
  })
  await loop.start()
  await vi.advanceTimersByTimeAsync(0)
  expect(loop.ageMs()).toBe(0)

  outcome = 'throws'
  loop.ring()
  await vi.advanceTimersByTimeAsync(5_000)
  expect(loop.ageMs()).toBe(5_000)

  outcome = 'hangs'
  await vi.advanceTimersByTimeAsync(5_000)
  expect(loop.ageMs()).toBe(10_000)

  outcome = 'good'
  release()
  await vi.advanceTimersByTimeAsync(0)
  expect(loop.ageMs()).toBe(0)
  await loop.stop()
})

test('a loop counts as stale only after several missed periods', () => {
  const { loop } = createQuietLoop(async () => {})
  expect(loop.staleMs()).toBeGreaterThan(3 * MINUTE_MS)
})

test('stop lets the running pass finish, aborts its signal, and may be called twice', async () => {
  const { loop, passes, finish, signals } = createGatedLoop()
  await loop.start()
  await vi.waitFor(() => expect(passes()).toBe(1))
  let stopped = false
  const stopping = Promise.all([loop.stop(), loop.stop()]).then(() => (stopped = true))
  await vi.advanceTimersByTimeAsync(MINUTE_MS)
  expect(stopped).toBe(false)
  expect(signals[0]!.aborted).toBe(true)
  finish()
  await stopping
  expect(passes()).toBe(1)
  expect(vi.getTimerCount()).toBe(0)
})

test('stop may come first: then nothing starts', async () => {
  const pass = vi.fn(async () => {})
  const { loop } = createQuietLoop(pass)
  await loop.stop()
  await loop.start()
  loop.ring()
  await vi.advanceTimersByTimeAsync(10 * MINUTE_MS)
  expect(pass).not.toHaveBeenCalled()
})

test('two starts run one loop', async () => {
  let inside = 0
  let most = 0
  const { loop } = createQuietLoop(async () => {
    most = Math.max(most, ++inside)
    await new Promise((resolve) => setTimeout(resolve, 10))
    inside--
  })
  await Promise.all([loop.start(), loop.start()])
  for (let i = 0; i < 20; i++) {
    loop.ring()
    await vi.advanceTimersByTimeAsync(5)
  }
  expect(most).toBe(1)
  await vi.advanceTimersByTimeAsync(20)
  await loop.stop()
})

/** A loop whose passes wait until `finish` is called, once for each. */
function createGatedLoop() {
  let count = 0
  const signals: AbortSignal[] = []
  let finish = () => {}
  const loop = createLoop(
    { log: silent() },
    {
      name: 'gated',
      everyMs: MINUTE_MS,
      async pass(signal) {
        count++
        signals.push(signal)
        await new Promise<void>((resolve) => (finish = resolve))
      },
    },
  )
  return { loop, signals, passes: () => count, finish: () => finish() }
}

function createQuietLoop(pass: () => Promise<boolean> | Promise<void>) {
  return { loop: createLoop({ log: silent() }, { name: 'test', everyMs: MINUTE_MS, pass }) }
}

function silent() {
  return pino({ level: 'silent' })
}

function recording(lines: Record<string, unknown>[]) {
  const write = (chunk: Buffer, _encoding: string, done: () => void) => {
    lines.push(JSON.parse(chunk.toString()))
    done()
  }
  return pino(new Writable({ write }))
}
