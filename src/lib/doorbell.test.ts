import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createDoorbell } from './doorbell.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const never = new AbortController().signal

test('a ring that came before the wait is remembered, once', async () => {
  const bell = createDoorbell()
  bell.ring()
  bell.ring()
  await bell.wait(60_000, never)

  const second = watch(bell.wait(60_000, never))
  await vi.advanceTimersByTimeAsync(59_999)
  expect(second.done).toBe(false)
  await vi.advanceTimersByTimeAsync(1)
  expect(second.done).toBe(true)
})

test('a ring ends the wait at once and leaves no timer behind', async () => {
  const bell = createDoorbell()
  const wait = bell.wait(60_000, never)
  bell.ring()
  await wait
  expect(vi.getTimerCount()).toBe(0)
})

test('a wait ends when its signal aborts, also one that was aborted before', async () => {
  const bell = createDoorbell()
  const stop = new AbortController()
  const wait = bell.wait(60_000, stop.signal)
  stop.abort()
  await wait
  await bell.wait(60_000, stop.signal)
  expect(vi.getTimerCount()).toBe(0)
})

test('a thousand waits leave no listener on the signal', async () => {
  const bell = createDoorbell()
  const stop = new AbortController()
  const added = vi.spyOn(stop.signal, 'addEventListener')
  const removed = vi.spyOn(stop.signal, 'removeEventListener')
  for (let i = 0; i < 1000; i++) {
    const wait = bell.wait(60_000, stop.signal)
    bell.ring()
    await wait
  }
  expect(added).toHaveBeenCalledTimes(1000)
  expect(new Set(removed.mock.calls.map(([, listener]) => listener))).toEqual(
    new Set(added.mock.calls.map(([, listener]) => listener)),
  )
})

function watch(promise: Promise<void>) {
  const state = { done: false }
  void promise.then(() => {
    state.done = true
  })
  return state
}
