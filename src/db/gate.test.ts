import { describe, expect, test, vi } from 'vitest'
import { createLogger } from '../lib/logger.ts'
import { createGate, type Ticket } from './gate.ts'

const log = createLogger({ level: 'silent', pretty: false })
const refusedConnect = Object.assign(new Error('connect'), { code: 'ECONNREFUSED' })

function ticket() {
  const made = { go: vi.fn(), refuse: vi.fn() }
  return made satisfies Ticket
}

function gateOf(options: Partial<Parameters<typeof createGate>[1]> = {}) {
  return createGate({ log }, { places: 1, probe: async () => {}, ...options })
}

describe('while the database answers', () => {
  test('who comes first goes first, and never more at once than there are places', async () => {
    const gate = gateOf({ places: 2 })
    const tickets = Array.from({ length: 4 }, ticket)
    for (const one of tickets) gate.enter(one)
    expect(tickets.map((one) => one.go.mock.calls.length)).toEqual([1, 1, 0, 0])

    gate.leave()
    await vi.waitUntil(() => tickets[2]!.go.mock.calls.length === 1)
    expect(tickets[3]!.go).not.toHaveBeenCalled()
  })

  test('one more than may wait is refused at once', () => {
    const gate = gateOf({ waitingMax: 1 })
    gate.enter(ticket())
    gate.enter(ticket())
    const late = ticket()
    gate.enter(late)
    expect(late.refuse).toHaveBeenCalledWith(
      expect.objectContaining({ code: 'database_unavailable', retryAfterSeconds: 1 }),
    )
  })

  test('who waited too long is refused, and the place is not lost', async () => {
    const gate = gateOf({ waitMsMax: 20 })
    gate.enter(ticket())
    const patient = ticket()
    gate.enter(patient)
    await vi.waitUntil(() => patient.refuse.mock.calls.length === 1)

    gate.leave()
    const next = ticket()
    gate.enter(next)
    await vi.waitUntil(() => next.go.mock.calls.length === 1)
    expect(patient.go).not.toHaveBeenCalled()
  })

  test('a query that fails for its own reasons says nothing about the database', () => {
    const gate = gateOf()
    gate.enter(ticket())
    gate.leave(Object.assign(new Error('unique'), { code: '23505' }))
    expect(gate.isDown()).toBe(false)
  })
})

describe('when a connection cannot be made', () => {
  test('all who wait and all who come are refused at once, until a probe is answered', async () => {
    const answers = [Promise.reject(refusedConnect), Promise.resolve()]
    const probe = vi.fn(() => answers.shift() ?? Promise.resolve())
    const gate = gateOf({ probe })
    const waiting = ticket()
    gate.enter(ticket())
    gate.enter(waiting)
    gate.leave(refusedConnect)
    expect(waiting.refuse).toHaveBeenCalledOnce()

    const during = ticket()
    gate.enter(during)
    expect(during.refuse).toHaveBeenCalledOnce()

    await vi.waitUntil(() => !gate.isDown())
    expect(probe).toHaveBeenCalledTimes(2)
    const after = ticket()
    gate.enter(after)
    expect(after.go).toHaveBeenCalledOnce()
  })

  test('a closed gate refuses for ever', async () => {
    const gate = gateOf()
    const waiting = ticket()
    gate.enter(ticket())
    gate.enter(waiting)
    gate.close()
    expect(waiting.refuse).toHaveBeenCalledOnce()
    gate.leave()
    const late = ticket()
    gate.enter(late)
    expect(late.refuse).toHaveBeenCalledOnce()
  })
})
