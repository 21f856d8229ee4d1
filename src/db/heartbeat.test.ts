import { expect, test } from 'vitest'
import { createHeartbeat } from './heartbeat.ts'

test('a connection that lives for months costs no more memory with each beat', async () => {
  const lost = new Promise<void>(() => {})
  let subscribers = 0
  // What waits for a promise is kept until it settles, and this one may never do so.
  const counted = Object.assign(Object.create(Promise.prototype) as Promise<void>, {
    // biome-ignore lint/suspicious/noThenProperty: stands in for a promise and counts who waits for it
    then(...args: Parameters<typeof lost.then>) {
      subscribers += 1
      return lost.then(...args)
    },
  })
  const heartbeat = createHeartbeat({
    everyMs: 1,
    answerMs: 5_000,
    send: async () => heartbeat.heard(),
    lost: counted,
  })
  for (let n = 0; n < 100; n++) await heartbeat.beat()
  expect(subscribers).toBeLessThan(5)
})

test('a beat in flight fails as soon as the connection is lost, and so does every later one', async () => {
  const lost = Promise.withResolvers<void>()
  const heartbeat = createHeartbeat({ everyMs: 1, answerMs: 60_000, send: async () => {}, lost: lost.promise })
  const beating = heartbeat.beat()
  lost.resolve()
  await expect(beating).rejects.toThrow('closed')
  await expect(heartbeat.beat()).rejects.toThrow('closed')
})
