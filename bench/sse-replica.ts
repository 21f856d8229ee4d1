/**
 * A replica in a process of its own, as far as streams go: the tail and the manager at `/{organization}/{conversation}`, and
 * for `streaming.ts` the way of replies from a worker to them. It also hears raw notifications, for the floors.
 */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { openDatabase } from '../src/db/client.ts'
import { createNotifier } from '../src/db/notify.ts'
import { createPublisher } from '../src/queue/publisher.ts'
import type { ClaimedRun } from '../src/queue/runs.ts'
import { readHeads } from '../src/sse/event-log.ts'
import { formatNotice } from '../src/sse/frames.ts'
import { decodeHints, encodeHints } from '../src/sse/hints.ts'
import { createSseManager } from '../src/sse/manager.ts'
import { channelKey, createTail } from '../src/sse/tail.ts'
import { createReplyWriter } from '../src/workers/replies.ts'
import { log, pause, sharedNow } from './support.ts'

export type Order =
  | { kind: 'stream'; runs: ClaimedRun[]; deltasPerSecond: number; seconds: number }
  /** The delays of raw notifications since it was asked before. */
  | { kind: 'raw' }

export interface Report {
  /** Milliseconds. */
  raw?: number[]
  /** Microseconds of CPU while it streamed. */
  cpuUs?: number
}

const db = await openDatabase({ url: process.argv[2]!, poolMax: 8, dataDir: null, log })
const { sql } = db
const tail = createTail({ sql, log }, { pollMs: () => 5_000 })
const sse = createSseManager(
  { sql, tail, log },
  { streamsMax: 10_000, streamsPerConversationMax: 10, pingMs: 15_000, bufferBytesMax: 1_048_576 },
)
const notifier = createNotifier({ sql, log })
const publisher = createPublisher(
  {
    ...{ sql, log },
    onPublished(events) {
      tail.offer(events)
      for (const payload of encodeHints(events)) notifier.ring('lobu_events', payload)
    },
  },
  { pollMs: 1_000 },
)
const writer = createReplyWriter({ sql, log, onInserted: publisher.ring })
await Promise.all([tail.start(), sse.start(), notifier.start(), publisher.start()])
await db.listen(
  'lobu_events',
  (payload) => {
    const { rows, bare } = decodeHints(payload)
    tail.offer(rows)
    for (const key of bare) tail.suspect(channelKey(key.organizationId, key.conversationId))
  },
  () => tail.suspect(),
)
let raw: number[] = []
await db.listen(
  'bench_raw',
  (payload) => raw.push(sharedNow() - Number(payload.split('|')[0])),
  () => {},
)

/** Every run says a delta 40 times a second, or as told, each with the time at which it was said; they are spread evenly. */
async function stream({ runs, deltasPerSecond, seconds }: Extract<Order, { kind: 'stream' }>): Promise<Report> {
  const said = runs.map((run) => ({ replies: writer.open(run, () => {}), next: 0 }))
  const everyMs = 1000 / deltasPerSecond
  const startedAt = sharedNow()
  for (const [index, one] of said.entries()) one.next = startedAt + (everyMs * index) / said.length
  const before = process.cpuUsage()
  for (let now = startedAt; now < startedAt + seconds * 1000; now = sharedNow()) {
    for (const one of said) {
      // A loop that was held up says what it owes, with the time at which it was due.
      for (; one.next <= now; one.next += everyMs) one.replies.delta(`@${one.next.toFixed(2)};`)
    }
    await pause(1)
  }
  const { user, system } = process.cpuUsage(before)
  await Promise.all(said.map(({ replies }) => replies.close(AbortSignal.timeout(10_000))))
  return { cpuUs: user + system }
}

process.on('message', async (order: Order) => {
  if (order.kind === 'stream') return process.send!(await stream(order))
  process.send!({ raw } satisfies Report)
  raw = []
})
const server = createServer(async (req, res) => {
  const [, organizationId = '', conversationId = ''] = (req.url ?? '').split('/')
  const [head] = await readHeads(sql, [{ organizationId, conversationId }])
  const last = head?.lastSeq ?? 0
  sse.attach(res, { organizationId, conversationId, after: last, head: last, preamble: formatNotice('connected', {}) })
})
server.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 }, () => {
  process.send!({ port: (server.address() as AddressInfo).port })
})
process.on('disconnect', () => process.exit(0))
