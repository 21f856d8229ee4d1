import { setImmediate } from 'node:timers/promises'
import { expect, test, vi } from 'vitest'
import type { DriverQuery, Tx } from './driver-query.ts'
import { createFlights } from './flights.ts'

/** A query that the driver keeps, and never sends. */
function unsent() {
  const query = { handler() {}, resolve: vi.fn(), reject: vi.fn(), cancel: vi.fn(), state: null }
  return { query: query as unknown as DriverQuery, told: query.reject }
}

test('work whose caller was told that it failed is not begun', async () => {
  const flights = createFlights(() => {})
  const begun = Promise.withResolvers<void>()
  const work = vi.fn(async () => {})
  const driver = async (between: (tx: Tx) => Promise<unknown>) => {
    await begun.promise
    await between({} as Tx)
  }
  const outcome = flights.around(driver, work)
  flights.failAll(new Error('closed'))
  await expect(outcome).rejects.toThrow('closed')
  begun.resolve()
  await setImmediate()
  expect(work).not.toHaveBeenCalled()
})

test('a statement of an open transaction is not failed with those that wait for a connection', () => {
  const flights = createFlights(() => {})
  const [waiting, inside] = [unsent(), unsent()]
  flights.takeOff(waiting.query, () => {})
  flights.takeOff(inside.query, () => {}, { inTransaction: true })
  flights.failUnsent(new Error('closed'))
  expect(waiting.told).toHaveBeenCalledTimes(1)
  expect(inside.told).not.toHaveBeenCalled()
  flights.failAll(new Error('closed'))
  expect(inside.told).toHaveBeenCalledTimes(1)
})
