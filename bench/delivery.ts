/**
 * A reply produced on replica A until its bytes reach a client of replica B, at 1,000 events a second over 25
 * conversations, against one raw NOTIFY from connection to connection. B and its streams live in a process of their own;
 * producer and client share this one, and so its clock.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { openDatabase } from '../src/db/client.ts'
import { createNotifier } from '../src/db/notify.ts'
import { bootstrap } from '../src/domain/accounts/bootstrap.ts'
import { createPublisher } from '../src/queue/publisher.ts'
import type { ClaimedRun } from '../src/queue/runs.ts'
import { encodeHints } from '../src/sse/hints.ts'
import { createReplyWriter, type RunReplies } from '../src/workers/replies.ts'
import { follow, log, median, quantile, type Row, withDatabase } from './support.ts'

const CONVERSATIONS = 25
const EVENTS_PER_SECOND = 1_000
const SECONDS = 4
const ROUNDS = 3
const NOTIFIES = 300

export function benchDelivery(): Promise<Row[]> {
  return withDatabase(async (url) => {
    const producer = await prepareProducer(url)
    const receiver = fork(join(import.meta.dirname, 'delivery-receiver.ts'), [url])
    const [{ port }] = (await once(receiver, 'message')) as [{ port: number }]
    try {
      return await measure(url, producer, port)
    } finally {
      await stopReceiver(receiver)
      await producer.stop()
    }
  })
}

async function measure(url: string, producer: Producer, port: number): Promise<Row[]> {
  const p50s: number[] = []
  const p99s: number[] = []
  const raw: number[] = []
  let lost = 0
  for (let round = 0; round < ROUNDS; round++) {
    const times = await produceAndReceive(producer, port)
    p50s.push(median(times))
    p99s.push(quantile(times, 0.99))
    lost += EVENTS_PER_SECOND * SECONDS - times.length
    raw.push(median(await timeNotify(url)))
  }
  const peer = { name: 'raw NOTIFY, one way', value: median(raw) }
  return [
    { name: 'reply on A to bytes at a client of B, p50', ours: median(p50s), peer, unit: 'ms', goal: '≤ 3 ms' },
    { name: 'the same, p99', ours: median(p99s), unit: 'ms', goal: '≤ 15 ms' },
    { name: 'the same, events lost', ours: lost, unit: '', goal: '0' },
  ]
}

type Producer = Awaited<ReturnType<typeof prepareProducer>>

async function prepareProducer(url: string) {
  const db = await openDatabase({ url, poolMax: 4, dataDir: null, log })
  const { sql } = db
  await bootstrap(sql, { onlyFirst: true })
  const [org] = await sql<{ id: string }[]>`select id from organizations`
  const notifier = createNotifier({ sql, log })
  const publisher = createPublisher(
    {
      ...{ sql, log },
      onPublished: (events) => {
        for (const payload of encodeHints(events)) notifier.ring('lobu_events', payload)
      },
    },
    { pollMs: 1_000 },
  )
  const writer = createReplyWriter({ sql, log, onInserted: publisher.ring })
  await Promise.all([notifier.start(), publisher.start()])
  const runs: { run: ClaimedRun; replies: RunReplies }[] = []
  for (let n = 0; n < CONVERSATIONS; n++) {
    const run = await insertRunning(sql, org!.id, n)
    runs.push({ run, replies: writer.open(run, () => {}) })
  }
  return {
    runs,
    async stop() {
      await writer.stop()
      await publisher.stop()
      await notifier.stop()
      await db.close()
    },
  }
}

async function insertRunning(sql: Awaited<ReturnType<typeof openDatabase>>['sql'], organizationId: string, n: number) {
  const conversationId = `conv_${n}`
  await sql`
    insert into conversations (organization_id, id, agent_id, user_id, thread, open_runs)
    values (${organizationId}, ${conversationId}, 'assistant', 'bench', ${conversationId}, 1)`
  const [row] = await sql<{ id: string }[]>`
    insert into runs (organization_id, id, conversation_id, turn, message_id, state, fence, attempt, lease_until, replica)
    values (${organizationId}, gen_random_uuid(), ${conversationId}, 1, 'm', 'running', 1, 1, now() + interval '1 hour', 'a')
    returning id`
  const run: ClaimedRun = {
    ...{ organizationId, conversationId, id: row!.id, turn: 1 },
    ...{ messageId: 'm', attempt: 1, fence: 1, traceparent: null },
  }
  return run
}

async function produceAndReceive({ runs }: Producer, port: number): Promise<number[]> {
  const total = EVENTS_PER_SECOND * SECONDS
  const times: number[] = []
  const complete = Promise.withResolvers<void>()
  const closers = await Promise.all(
    runs.map(({ run }) =>
      follow(`http://127.0.0.1:${port}/${run.organizationId}/${run.conversationId}`, '', (event, data) => {
        if (event !== 'tool-use') return
        times.push(performance.now() - (JSON.parse(data) as { at: number }).at)
        if (times.length === total) complete.resolve()
      }),
    ),
  )
  const startedAt = performance.now()
  let sent = 0
  const timer = setInterval(() => {
    const due = Math.min(total, Math.floor(((performance.now() - startedAt) / 1000) * EVENTS_PER_SECOND))
    for (; sent < due; sent++) {
      const text = 'x'.repeat(40)
      runs[sent % runs.length]!.replies.event('tool-use', { at: performance.now(), text })
    }
    if (sent === total) clearInterval(timer)
  }, 1)
  await Promise.race([complete.promise, new Promise((resolve) => setTimeout(resolve, (SECONDS + 10) * 1000).unref())])
  for (const close of closers) close()
  return times
}

async function timeNotify(url: string): Promise<number[]> {
  const a = await openDatabase({ url, poolMax: 2, dataDir: null, log })
  const b = await openDatabase({ url, poolMax: 2, dataDir: null, log })
  let heard = () => {}
  await b.listen(
    'bench_raw',
    () => heard(),
    () => {},
  )
  const times: number[] = []
  for (let n = 0; n < NOTIFIES; n++) {
    const arrival = new Promise<number>((resolve) => {
      heard = () => resolve(performance.now())
    })
    const startedAt = performance.now()
    await a.sql`select pg_notify('bench_raw', ${'x'.repeat(100)})`
    times.push((await arrival) - startedAt)
  }
  await a.close()
  await b.close()
  return times
}

async function stopReceiver(receiver: ChildProcess) {
  receiver.disconnect()
  await once(receiver, 'exit')
}
