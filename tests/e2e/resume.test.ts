import { connect } from 'node:net'
import { expect } from 'vitest'
import { pruneLog } from '../../src/sse/event-log.ts'
import { findFaults } from '../support/checker.ts'
import { type Cluster, type Conversation, test } from '../support/cluster.ts'
import { type Follower, streamedText } from '../support/follower.ts'
import { until } from '../support/gateway.ts'
import { connectSse, type SseEvent } from '../support/sse-client.ts'
import { wordsUpTo } from '../support/words.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('three replicas share it')

const numbered = (events: SseEvent[]) => events.filter(({ id }) => id !== undefined)
const isEnd = ({ name }: SseEvent) => name === 'complete'

/** A conversation with one turn that ended and was seen, and its events. */
async function record(cluster: Cluster, content: string) {
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const { messageId } = await conversation.send(content)
  await follower.completed(messageId)
  await follower.stop()
  return { conversation, messageId, events: numbered(follower.events()) }
}

/** Resolves when the run has ended, without looking as a client does: who asks for a run has seen its end. */
async function waitForEnd({ database }: Cluster, runId: string) {
  await until(async () => {
    const rows = await database.sql`select 1 from runs where id = ${runId} and ended_at is not null`
    return rows.length > 0
  }, `run ${runId} has ended`)
}

/** All that a fresh stream on this replica shows of the past: what comes before the events of a message sent now. */
async function shownAfresh(conversation: Conversation, at: string) {
  const follower = await conversation.follow({ at })
  const next = await conversation.send('/echo now')
  await follower.completed(next.messageId)
  await follower.stop()
  return numbered(follower.events()).filter(({ data }) => data.messageId !== next.messageId)
}

test('the head of a stream tells proxies to pass it on as it comes', async ({ cluster }) => {
  const { conversation } = await record(cluster, '/echo x')
  const headers = { authorization: `Bearer ${conversation.token}`, 'accept-encoding': 'gzip, br' }
  const stream = await connectSse(conversation.eventsUrl(), { headers, lastEventId: 0 })
  const first = await stream.waitFor(() => true)
  expect(first).toMatchObject({ id: undefined, name: 'connected' })
  expect(first.data).toMatchObject({ agentId: conversation.id, conversationId: conversation.id })
  expect(stream.headers).toMatchObject({
    'content-type': expect.stringMatching(/^text\/event-stream/),
    'cache-control': 'no-cache, no-transform',
    'x-accel-buffering': 'no',
  })
  expect(stream.headers['content-encoding']).toBeUndefined()
  stream.cut()
})

test('a connection that breaks after any number of bytes is resumed on another replica without a seam', async ({
  cluster,
}) => {
  const { conversation, events } = await record(cluster, '/echo 🍋 naïve “quotes” \\n 漢字 /words 30 /delay 5')
  const whole = await conversation.follow({ lastEventId: 0 })
  await whole.until(isEnd, 'the end')
  const { bytes } = whole.connections[0]!
  await whole.stop()
  expect(numbered(whole.events())).toEqual(events)
  let next = 1
  await Promise.all(
    Array.from({ length: 6 }, async () => {
      while (next < bytes) {
        const at = next
        next += 23
        const cutAfter = (connection: number) => (connection === 0 ? at : undefined)
        const follower = await conversation.follow({ lastEventId: 0, inQuery: at % 2 === 0, cutAfter })
        await follower.until(isEnd, `the end, resumed after ${at} bytes`)
        await follower.stop()
        expect(numbered(follower.events()), `resumed after ${at} bytes`).toEqual(events)
        expect(follower.faults).toEqual([])
      }
    }),
  )
})

test('clients that lose their connection again and again during a turn see each event once', async ({ cluster }) => {
  const conversation = await cluster.open()
  // Some connections end before they have shown anything new, none before the longest event fits in.
  const cutAfter = () => cluster.random.int(40, 3000)
  const followers = await Promise.all(
    Array.from({ length: 8 }, (_, at) => conversation.follow({ lastEventId: 0, inQuery: at % 2 === 0, cutAfter })),
  )
  const { messageId } = await conversation.send('/words 150 /delay 10')
  const answer = wordsUpTo(150)
  for (const [at, follower] of followers.entries()) {
    await follower.completed(messageId)
    await follower.stop()
    const seen = { events: follower.events(), faults: follower.faults, after: 0 }
    expect(findFaults([{ name: `client ${at}`, acknowledged: [{ messageId, answer }], ...seen }])).toEqual([])
    expect(follower.connections.length).toBeGreaterThan(3)
  }
})

test('a turn that ended before any stream was open is shown to the first one, and to no other', async ({ cluster }) => {
  for (let round = 0; round < 5; round++) {
    const conversation = await cluster.open()
    const first = await conversation.send('/echo quick')
    const second = await conversation.send('/echo quicker')
    await waitForEnd(cluster, second.runId)
    const follower = await conversation.follow()
    await follower.completed(second.messageId)
    const acknowledged = [
      { ...first, answer: 'quick' },
      { ...second, answer: 'quicker' },
    ]
    expect(findFaults([{ name: 'first', acknowledged, events: follower.events(), after: 0 }])).toEqual([])
    await follower.stop()
    for (const { url } of cluster.replicas) expect(await shownAfresh(conversation, url)).toEqual([])
  }
})

/** Opens a fresh stream and takes nothing of it. Resolves with the way to tear it off, when the server has noted it. */
async function openUnread({ database }: Cluster, conversation: Conversation, at: string) {
  const { hostname, port, pathname } = new URL(conversation.eventsUrl(at))
  const socket = connect(Number(port), hostname)
  socket.on('error', () => {}).pause()
  socket.write(`GET ${pathname} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${conversation.token}\r\n\r\n`)
  await until(async () => {
    const rows = await database.sql`select 1 from stream_presence where conversation_id = ${conversation.id}`
    return rows.length > 0
  }, 'the stream is noted')
  return () => socket.resetAndDestroy()
}

// 3, 7: a client that has no number yet can only come back as a fresh one
test('a fresh stream that is cut before its first byte takes no turn along, whenever the turn ends', async ({
  cluster,
}) => {
  for (let round = 0; round < 6; round++) {
    const conversation = await cluster.open()
    const at = cluster.random.pick(cluster.replicas).url
    // Before the message, while the turn runs, and behind its end: then it is being told just now.
    const isBehind = round % 3 === 2
    const early = round % 3 === 0 ? await openUnread(cluster, conversation, at) : undefined
    const { messageId, runId } = await conversation.send('/words 5 /delay 20')
    if (isBehind) await waitForEnd(cluster, runId)
    const cut = early ?? (await openUnread(cluster, conversation, at))
    cut()
    await waitForEnd(cluster, runId)
    const follower = await conversation.follow()
    await follower.completed(messageId)
    const acknowledged = [{ messageId, answer: 'w1 w2 w3 w4 w5' }]
    expect(findFaults([{ name: `round ${round}`, acknowledged, events: follower.events(), after: 0 }])).toEqual([])
    await follower.stop()
  }
})

test('a turn whose result was asked for is not shown again', async ({ cluster }) => {
  const conversation = await cluster.open()
  const { runId } = await conversation.send('/echo polled')
  await waitForEnd(cluster, runId)
  expect((await cluster.call('GET', `/api/v1/runs/${runId}`)).body.result).toBe('polled')
  for (const { url } of cluster.replicas) expect(await shownAfresh(conversation, url)).toEqual([])
})

test('a client that leaves at the end and comes back at once, elsewhere, never sees the old answer', async ({
  cluster,
}) => {
  await Promise.all(
    Array.from({ length: 6 }, async () => {
      const conversation = await cluster.open({ thread: `back-${cluster.random.next()}` })
      for (let turn = 1; turn <= 8; turn++) {
        const follower = await conversation.follow()
        const { messageId } = await conversation.send(`/echo turn ${turn}`)
        await follower.until(isEnd, 'an end')
        await follower.stop()
        const shown = numbered(follower.events()).map(({ data }) => data.messageId)
        expect(new Set(shown), `turn ${turn}`).toEqual(new Set([messageId]))
        expect(streamedText(follower.events(), messageId)).toBe(`turn ${turn}`)
      }
    }),
  )
})

test('a fresh stream in the middle of a turn shows it from its first word', async ({ cluster }) => {
  const { conversation } = await record(cluster, '/echo before')
  const early = await conversation.follow()
  const { messageId } = await conversation.send('/words 60 /delay 20')
  await early.streamed(messageId, 20)
  const late = await Promise.all(cluster.replicas.map(({ url }) => conversation.follow({ at: url })))
  const followers: Follower[] = [early, ...late]
  for (const follower of followers) {
    await follower.completed(messageId)
    await follower.stop()
    expect(numbered(follower.events())).toEqual(numbered(early.events()))
  }
})

test('a position at the end shows what comes next; one from the future is reset, once', async ({ cluster }) => {
  const { conversation, events } = await record(cluster, '/echo past')
  const head = events.at(-1)!.id!
  const atEnd = await conversation.follow({ lastEventId: head })
  const beyond = await conversation.follow({ lastEventId: head + 1000 })
  const { messageId } = await conversation.send('/echo present')
  for (const follower of [atEnd, beyond]) {
    await follower.completed(messageId)
    await follower.stop()
    const acknowledged = [{ messageId, answer: 'present' }]
    expect(findFaults([{ name: 'it', acknowledged, events: follower.events(), after: head }])).toEqual([])
  }
  expect(atEnd.events().filter(({ name }) => name === 'reset')).toEqual([])
  const resets = beyond.events().filter(({ name }) => name === 'reset')
  expect(resets).toHaveLength(1)
  expectSnapshot(resets[0]!, [
    ['user', '/echo past'],
    ['assistant', 'past'],
  ])
})

test('a position that is no longer kept gets a reset with all that was said, and goes on from there', async ({
  cluster,
}) => {
  const { conversation, events } = await record(cluster, '/echo long ago')
  const head = events.at(-1)!.id!
  await cluster.add({ LOG_KEEP_SECONDS: '1' })
  await until(async () => {
    const rows = await cluster.database.sql`
      select 1 from conversations where id = ${conversation.id} and pruned_seq = ${head}`
    return rows.length > 0
  }, 'the old turn was pruned')
  const running = await conversation.send('/echo today /words 50 /delay 20')
  // All at once: before long this turn will be pruned as well.
  const followers = await Promise.all(
    cluster.replicas.map(({ url }) => conversation.follow({ at: url, lastEventId: 1 })),
  )
  for (const follower of followers) {
    await follower.completed(running.messageId)
    await follower.stop()
    const resets = follower.events().filter(({ name }) => name === 'reset')
    expect(resets.map(({ data }) => data.oldest)).toEqual([head + 1])
    expectSnapshot(resets[0]!, [
      ['user', '/echo long ago'],
      ['assistant', 'long ago'],
    ])
    const acknowledged = [{ ...running, marker: 'today' }]
    expect(findFaults([{ name: 'it', acknowledged, events: follower.events(), after: head }])).toEqual([])
  }
})

// 5
test('a stream that stays open while its log is emptied and the other replica is replaced sees the next turn, numbered on', async ({
  cluster,
}) => {
  const [old, here] = cluster.replicas
  const conversation = await cluster.open()
  const follower = await conversation.follow({ at: here!.url })
  const first = await conversation.send('/echo one')
  await follower.completed(first.messageId)
  await until(async () => {
    await pruneLog(cluster.database.sql, { keepMs: 0, turnsMax: 100 })
    const rows = await cluster.database.sql`select 1 from event_log where conversation_id = ${conversation.id}`
    return rows.length === 0
  }, 'the first turn was pruned')
  old!.signal('SIGKILL')
  await old!.exited
  await cluster.balance()
  const { url: at } = await cluster.add()
  const second = await conversation.post('/echo two', { at })
  const messageId = String(second.body.messageId)
  await follower.completed(messageId)
  await follower.stop()
  const acknowledged = [
    { ...first, marker: 'one' },
    { messageId, marker: 'two' },
  ]
  expect(findFaults([{ name: 'it', acknowledged, events: follower.events(), after: 0 }])).toEqual([])
  expect(follower.events().filter(({ name }) => name === 'reset')).toEqual([])
})

/** The snapshot begins with this, in this order. */
function expectSnapshot(reset: SseEvent, said: string[][]) {
  const { messages } = reset.data.snapshot as { messages: { role: string; content: string }[] }
  expect(messages.map(({ role, content }) => [role, content]).slice(0, said.length)).toEqual(said)
}
