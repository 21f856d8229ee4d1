import { describe, expect, test as plainTest, vi } from 'vitest'
import { test } from '../../tests/support/world.ts'
import { createLogger } from '../lib/logger.ts'
import type { Sql } from './client.ts'
import { createNotifier, PAYLOAD_BYTES_MAX } from './notify.ts'

/** A tag that keeps each statement's parameters and answers when it is told to. */
function recorder(options?: Parameters<typeof createNotifier>[1]) {
  const statements: { channels: string[]; payloads: string[]; answer: PromiseWithResolvers<void> }[] = []
  const tag = (_text: TemplateStringsArray, channels: string[], payloads: string[]) => {
    const answer = Promise.withResolvers<void>()
    statements.push({ channels, payloads, answer })
    return answer.promise
  }
  const log = createLogger({ level: 'silent', pretty: false })
  return { statements, notifier: createNotifier({ sql: tag as unknown as Sql, log }, options) }
}

describe('a notifier', () => {
  test('rings on another replica, with payloads of any text', async ({ world }) => {
    const a = await world.replica()
    const b = await world.replica()
    const channel = world.unique('channel')
    const heard: string[] = []
    await b.listen(
      channel,
      (payload) => heard.push(payload),
      () => {},
    )
    const notifier = await world.run(createNotifier({ sql: a.sql, log: world.log }))

    const payloads = ['', 'a "b" \\ {c}', 'ü', 'x'.repeat(PAYLOAD_BYTES_MAX)]
    for (const payload of payloads) notifier.ring(channel, payload)
    await vi.waitUntil(() => heard.length === payloads.length)
    expect(heard).toEqual(payloads)
    expect(notifier.dropped()).toBe(0)
  })

  plainTest('sends the first at once, and what rings meanwhile together with the next, each once', async () => {
    const { notifier, statements } = recorder()
    notifier.ring('c', 'first')
    await vi.waitUntil(() => statements.length === 1)
    for (const payload of ['x', 'y', 'x', 'y']) notifier.ring('c', payload)
    notifier.ring('d', 'x')
    expect(statements).toHaveLength(1)

    statements[0]!.answer.resolve()
    await vi.waitUntil(() => statements.length === 2)
    expect(statements[1]).toMatchObject({ channels: ['c', 'c', 'd'], payloads: ['x', 'y', 'x'] })
  })

  plainTest('the same ring is sent again once the one before has left', async () => {
    const { notifier, statements } = recorder()
    notifier.ring('c', 'x')
    await vi.waitUntil(() => statements.length === 1)
    notifier.ring('c', 'x')
    statements[0]!.answer.resolve()
    await vi.waitUntil(() => statements.length === 2)
    statements[1]!.answer.resolve()
  })

  plainTest('keeps a bounded number waiting and counts what it drops', async () => {
    const { notifier, statements } = recorder()
    notifier.ring('c', 'first')
    await vi.waitUntil(() => statements.length === 1)
    for (let n = 0; n < 1_500; n++) notifier.ring('c', String(n))
    expect(notifier.dropped()).toBe(500)
    statements[0]!.answer.resolve()
    await vi.waitUntil(() => statements.length === 2)
    expect(statements[1]!.payloads).toHaveLength(1_000)
  })

  plainTest('leaves a channel alone between two statements, and that channel only', async () => {
    vi.useFakeTimers({ toFake: ['performance', 'setTimeout', 'clearTimeout'] })
    try {
      const { notifier, statements } = recorder({ gapsMs: { slow: 5 } })
      notifier.ring('slow', 'first')
      await vi.advanceTimersByTimeAsync(0)
      expect(statements).toHaveLength(1)
      statements[0]!.answer.resolve()

      await vi.advanceTimersByTimeAsync(1)
      notifier.ring('slow', 'x')
      notifier.ring('slow', 'x')
      notifier.ring('quick', 'y')
      await vi.advanceTimersByTimeAsync(3)
      expect(statements.slice(1)).toMatchObject([{ channels: ['quick'] }])

      await vi.advanceTimersByTimeAsync(1)
      expect(statements.slice(2)).toMatchObject([{ channels: ['slow'], payloads: ['x'] }])
      statements[2]!.answer.resolve()

      await vi.advanceTimersByTimeAsync(5)
      notifier.ring('slow', 'z')
      await vi.advanceTimersByTimeAsync(0)
      expect(statements.slice(3), 'after a pause the first ring goes out at once').toMatchObject([{ payloads: ['z'] }])
    } finally {
      vi.useRealTimers()
    }
  })

  plainTest('goes on after a statement that failed, whose rings are counted as dropped', async () => {
    const { notifier, statements } = recorder()
    notifier.ring('c', 'x')
    await vi.waitUntil(() => statements.length === 1)
    statements[0]!.answer.reject(new Error('away'))
    await vi.waitUntil(() => notifier.dropped() === 1)
    notifier.ring('c', 'y')
    await vi.waitUntil(() => statements.length === 2)
  })

  plainTest('what Postgres would refuse is an error of the caller', () => {
    const { notifier } = recorder()
    expect(() => notifier.ring('c', 'x'.repeat(PAYLOAD_BYTES_MAX + 1))).toThrow('7,900')
    expect(() => notifier.ring('c'.repeat(64), 'x')).toThrow('63')
  })

  plainTest('stop waits for what was rung, takes no more, and may be called twice', async () => {
    const { notifier, statements } = recorder()
    notifier.ring('c', 'last')
    const stopped = vi.fn()
    const stopping = Promise.all([notifier.stop(), notifier.stop()]).then(stopped)
    notifier.ring('c', 'late')
    await vi.waitUntil(() => statements.length === 1)
    expect(stopped).not.toHaveBeenCalled()
    statements[0]!.answer.resolve()
    await stopping
    expect(statements.map(({ payloads }) => payloads)).toEqual([['last']])
  })
})
