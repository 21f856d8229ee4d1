import { pino } from 'pino'
import { expect, test } from 'vitest'
import { createStartWatch } from './start-watch.ts'

const log = pino({ level: 'silent' })
const failed = { fault: 'a worker ended with 1 before it was ready' }

test('before any worker was ready, the first that fails says enough', () => {
  const watch = createStartWatch({ log })
  expect([watch.fault(), watch.isProven()]).toEqual([null, false])
  watch.note(failed)
  expect(watch.fault()).toBe(failed.fault)
})

test('later it takes two in a row, and one that is ready ends it', () => {
  const watch = createStartWatch({ log })
  for (const outcome of ['ready', failed, 'ready', failed] as const) watch.note(outcome)
  expect(watch.fault()).toBe(null)
  watch.note(failed)
  expect(watch.fault()).toBe(failed.fault)
  watch.note('ready')
  expect([watch.fault(), watch.isProven()]).toEqual([null, true])
})

test('one that was given up on purpose says nothing', () => {
  const watch = createStartWatch({ log })
  watch.note(undefined)
  expect([watch.fault(), watch.isProven()]).toEqual([null, false])
})
