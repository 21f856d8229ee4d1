import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { createReceipts } from './receipts.ts'
import type { Stream } from './stream.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

/** A stream of which the network has taken the end of a turn. */
function stage() {
  const receipts = createReceipts()
  const stream = { closed: false } as Stream
  const confirm = vi.fn()
  receipts.taken(stream, 5, confirm)
  return { receipts, stream, confirm }
}

describe('an end that the network has taken counts as seen', () => {
  test('when the connection still stands after a moment', () => {
    const { confirm } = stage()
    expect(confirm).not.toHaveBeenCalled()
    vi.advanceTimersByTime(1_000)
    expect(confirm.mock.calls).toEqual([[5]])
  })

  test('when the reader then closes it in order, and with it each end before', () => {
    const { receipts, stream, confirm } = stage()
    receipts.taken(stream, 9, confirm)
    receipts.closed(stream, false)
    vi.advanceTimersByTime(1_000)
    expect(confirm.mock.calls).toEqual([[9]])
  })

  test('when the stream was over by the time that it was taken', () => {
    const receipts = createReceipts()
    const confirm = vi.fn()
    receipts.taken({ closed: true } as Stream, 5, confirm)
    expect(confirm.mock.calls).toEqual([[5]])
  })

  test('but not when the connection is torn off', () => {
    const { receipts, stream, confirm } = stage()
    receipts.closed(stream, true)
    vi.advanceTimersByTime(1_000)
    expect(confirm).not.toHaveBeenCalled()
  })
})
