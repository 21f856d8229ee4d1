import { expect, it } from 'vitest'
import { defaultWorkersMax, memoryLimitBytes, residentMb } from './memory.ts'

const GIB = 1024 ** 3

it('the number of workers follows the memory, within bounds', () => {
  expect(defaultWorkersMax(0.5 * GIB)).toBe(2)
  expect(defaultWorkersMax(2 * GIB)).toBe(21)
  expect(defaultWorkersMax(64 * GIB)).toBe(300)
  expect(memoryLimitBytes()).toBeGreaterThan(100e6)
})

it('the memory of a process is known while it lives', async () => {
  const mib = await residentMb(process.pid)
  expect(mib).toBeCloseTo(process.memoryUsage().rss / 1024 / 1024, -2)
  expect(await residentMb(2 ** 22 + 1)).toBeUndefined()
})
