import { expect } from 'vitest'
import { findFaults } from '../support/checker.ts'
import { test } from '../support/cluster.ts'
import { sendHalf } from '../support/half-sent.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('several replicas share it')

test.override('clusterOptions', { replicas: 1, env: {} })

/** How long opening them may take: a body has 30 s (`src/http/body.ts`), and those of the first ones begin to run at once. */
const OPENING_MS = 12_000
const AT_ONCE = 50
/** Longer than a request needs; what is under way at SIGTERM must not be measured by that. */
const HELD_MS = 6_000

// 65
test('of a thousand requests that are under way at SIGTERM none is cut, and what they ask for is done', async ({
  cluster,
}) => {
  const gateway = await cluster.add({ SHUTDOWN_GRACE_SECONDS: '25' })
  const conversations = await Promise.all(Array.from({ length: AT_ONCE }, () => cluster.open()))
  const messages = conversations.map(({ id, token }) => ({
    ...{ path: `/api/v1/agents/${id}/messages`, body: { content: '/echo taken', messageId: `held-${id}` }, token },
  }))
  // Refused when they are read to their end: they cost the database nothing, however slow the machine is.
  const refused = messages.map((one) => ({ ...one, body: { content: 42 } }))
  const openedUntil = performance.now() + OPENING_MS
  const underWay = await Promise.all(messages.map((one) => sendHalf(gateway.url, one)))
  // A machine that needs too long for a thousand does with fewer, or the bodies of the first would be over their time.
  do underWay.push(...(await Promise.all(refused.map((one) => sendHalf(gateway.url, one)))))
  while (underWay.length < 1000 && performance.now() < openedUntil)
  gateway.signal('SIGTERM')
  cluster.balance({ without: [gateway] })
  await gateway.logged('stopping')
  await new Promise((resolve) => setTimeout(resolve, HELD_MS))
  const answers = await Promise.all(underWay.map((one) => one.finish()))
  expect(answers.slice(0, AT_ONCE).filter((answer) => answer !== '200')).toEqual([])
  expect(answers.slice(AT_ONCE).filter((answer) => answer !== '400')).toEqual([])
  expect(await gateway.exited).toEqual({ code: 0, signal: null })
  const followers = await Promise.all(conversations.map((one) => one.follow({ lastEventId: 0 })))
  await Promise.all(followers.map((follower, at) => follower.completed(`held-${conversations[at]!.id}`)))
  const seen = followers.map((follower, at) => ({
    ...{ name: conversations[at]!.id, events: follower.events(), faults: follower.faults, after: 0 },
    acknowledged: [{ messageId: `held-${conversations[at]!.id}`, answer: 'taken' }],
  }))
  expect(findFaults(seen)).toEqual([])
  await Promise.all(followers.map((follower) => follower.stop()))
})
