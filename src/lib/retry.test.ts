import { pino } from 'pino'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { type RetryOptions, retry } from './retry.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

const MINUTE_MS = 60_000
const options: RetryOptions = {
  ...{ tries: 3, baseMs: MINUTE_MS, maxMs: MINUTE_MS },
  log: pino({ level: 'silent' }),
  waiting: 'question waits',
}

/** A question that fails so often, each time with an error of its own, and is answered then. */
function failing(times: number) {
  const ask = vi.fn(async () => {
    if (ask.mock.calls.length <= times) throw new Error(`failure ${ask.mock.calls.length}`)
    return 'answer'
  })
  return ask
}

test('a question is asked until there is an answer', async () => {
  const ask = failing(2)
  const answer = retry(ask, options)
  await vi.runAllTimersAsync()
  expect(await answer).toBe('answer')
  expect(ask).toHaveBeenCalledTimes(3)
})

test('after the last try its error is told', async () => {
  const ask = failing(3)
  const answer = expect(retry(ask, options)).rejects.toThrow('failure 3')
  await vi.runAllTimersAsync()
  await answer
  expect(ask).toHaveBeenCalledTimes(3)
})

test('an error that is not worth another try is told at once', async () => {
  const ask = failing(2)
  await expect(retry(ask, { ...options, when: () => false })).rejects.toThrow('failure 1')
  expect(vi.getTimerCount()).toBe(0)
})

test('an abort ends the wait and the tries', async () => {
  const ask = failing(2)
  const abort = new AbortController()
  const answer = expect(retry(ask, { ...options, signal: abort.signal })).rejects.toThrow('failure 1')
  await vi.advanceTimersByTimeAsync(1)
  abort.abort()
  await answer
  expect(ask).toHaveBeenCalledTimes(1)
  expect(vi.getTimerCount()).toBe(0)
})
