import { describe, expect, it } from 'vitest'
import { createSlots } from './slots.ts'

const never = new AbortController().signal

describe('slots', () => {
  it('are given out in order and never exceed their number', async () => {
    const slots = createSlots(2)
    expect(await slots.take(never)).toBe(true)
    expect(await slots.take(never)).toBe(true)
    const order: number[] = []
    const third = slots.take(never).then(() => order.push(3))
    const fourth = slots.take(never).then(() => order.push(4))
    expect(slots.wanted()).toBe(4)
    expect(slots.tryTake()).toBe(false)
    slots.release()
    await third
    expect(slots.tryTake()).toBe(false)
    slots.release()
    await fourth
    expect(order).toEqual([3, 4])
    slots.release()
    slots.release()
    expect(slots.wanted()).toBe(0)
  })

  it('are not waited for by who has gone, or after the end', async () => {
    const slots = createSlots(1)
    await slots.take(never)
    const abort = new AbortController()
    const gone = slots.take(abort.signal)
    abort.abort()
    expect(await gone).toBe(false)
    const waiting = slots.take(never)
    slots.close()
    expect(await waiting).toBe(false)
    slots.release()
    expect(await slots.take(never)).toBe(false)
    expect(slots.wanted()).toBe(0)
  })

  it('turn away who comes when a thousand wait', async () => {
    const slots = createSlots(1)
    await slots.take(never)
    const waiting = Array.from({ length: 1000 }, () => slots.take(never))
    expect(await slots.take(never)).toBe(false)
    slots.close()
    expect(await Promise.all(waiting)).toEqual(Array(1000).fill(false))
  })
})
