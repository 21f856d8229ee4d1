import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { createRecall } from './recall.ts'

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance', 'setTimeout', 'clearTimeout'] })
  // A fresh process knows no earlier time than its start; the library takes that one for none.
  vi.advanceTimersByTime(10)
})
afterEach(() => void vi.useRealTimers())

/** A look-up that says how often it was asked, and answers when it is let. */
function createSource() {
  let asked = 0
  const gates: (() => void)[] = []
  return {
    find: async () => ({ nth: ++asked }),
    slow: async () => {
      const value = { nth: ++asked }
      await new Promise<void>((resolve) => gates.push(resolve))
      return value
    },
    release: () => gates.splice(0).forEach((open) => void open()),
    asked: () => asked,
  }
}

test('what was looked up is known for a while, and no longer', async () => {
  const source = createSource()
  const recall = createRecall<{ nth: number }>({ max: 10, ttlMs: 1_000 })
  expect(await recall.get('a', source.find)).toEqual({ nth: 1 })
  vi.advanceTimersByTime(900)
  expect(await recall.get('a', source.find)).toEqual({ nth: 1 })
  expect(await recall.get('b', source.find)).toEqual({ nth: 2 })
  vi.advanceTimersByTime(200)
  expect(await recall.get('a', source.find)).toEqual({ nth: 3 })
})

test('the time counts from before the look-up, however long that took', async () => {
  const source = createSource()
  const recall = createRecall<{ nth: number }>({ max: 10, ttlMs: 1_000 })
  const looking = recall.get('a', source.slow)
  vi.advanceTimersByTime(800)
  source.release()
  expect(await looking).toEqual({ nth: 1 })
  vi.advanceTimersByTime(300)
  expect(await recall.get('a', source.find)).toEqual({ nth: 2 })
})

test('a look-up that began before a change is answered and not kept', async () => {
  const source = createSource()
  const recall = createRecall<{ nth: number }>({ max: 10, ttlMs: 1_000 })
  await recall.get('known', source.find)
  const looking = recall.get('a', source.slow)
  recall.forget()
  source.release()
  expect(await looking).toEqual({ nth: 2 })
  expect(await recall.get('a', source.find)).toEqual({ nth: 3 })
  expect(await recall.get('known', source.find)).toEqual({ nth: 4 })
})

test('nothing found is not remembered, nor a failure', async () => {
  const source = createSource()
  const recall = createRecall<{ nth: number }>({ max: 10, ttlMs: 1_000 })
  expect(await recall.get('a', async () => null)).toBeNull()
  await expect(recall.get('a', () => Promise.reject(new Error('away')))).rejects.toThrow('away')
  expect(await recall.get('a', source.find)).toEqual({ nth: 1 })
})

test('a hundred thousand names take no more room than it may', async () => {
  const source = createSource()
  const recall = createRecall<{ nth: number }>({ max: 100, ttlMs: 1_000 })
  for (let n = 0; n < 100_000; n++) await recall.get(`name ${n}`, source.find)
  await recall.get('name 99999', source.find)
  expect(source.asked()).toBe(100_000)
  await recall.get('name 99899', source.find)
  expect(source.asked()).toBe(100_001)
})
