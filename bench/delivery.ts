/**
 * A reply produced on replica A until its bytes reach a client of replica B: at 1,000 events a second over 25 conversations,
 * and at 100 a second in turn with what Postgres itself needs, one raw NOTIFY and one INSERT with NOTIFY, to the same process.
 * B and its streams live in a process of their own; producer and client share this one.
 */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createNotifier } from '../src/db/notify.ts'
import { createPublisher } from '../src/queue/publisher.ts'
import { encodeHints } from '../src/sse/hints.ts'
import { createReplyWriter } from '../src/workers/replies.ts'
import { createScene, type Scene } from './scene.ts'
import type { Order, Report } from './sse-replica.ts'
import { follow, isQuick, log, median, pause, quantile, ROUNDS, sharedNow, withDatabase } from './support.ts'
import type { Row } from './table.ts'

const CONVERSATIONS = 25
const BUSY = { perSecond: 1_000, seconds: isQuick ? 1 : 4 }
const CALM = { perSecond: 100, seconds: isQuick ? 1 : 3 }
const TEXT = 'x'.repeat(100)

export function benchDelivery(): Promise<Row[]> {
  return withDatabase(async (url) => {
    const producer = await prepareProducer(url)
    const { replica, port } = await forkReplica(url)
    try {
      return await measure(producer, { replica, port })
    } finally {
      await stopReplica(replica)
      await producer.stop()
    }
  })
}

type Producer = Awaited<ReturnType<typeof prepareProducer>>
export interface Receiver {
  replica: ChildProcess
  port: number
}

async function measure(producer: Producer, receiver: Receiver): Promise<Row[]> {
  const busy: number[][] = []
  const calm = { ours: [] as number[], notify: [] as number[], insert: [] as number[] }
  const { sql } = producer.scene
  await sql`create table bench_events (id bigint generated always as identity primary key, text text not null)`
  let lost = 0
  for (let round = 0; round < ROUNDS; round++) {
    const times = await produceAndReceive(producer, receiver, BUSY)
    busy.push(times)
    lost += BUSY.perSecond * BUSY.seconds - times.length
    calm.ours.push(median(await produceAndReceive(producer, receiver, CALM)))
    const notify = (payload: string) => sql`select pg_notify('bench_raw', ${payload})`
    calm.notify.push(median(await hearRaw(receiver, notify)))
    const insert = (payload: string) => sql`
      with n as (insert into bench_events (text) values (${TEXT}) returning 1)
      select pg_notify('bench_raw', ${payload}) from n`
    calm.insert.push(median(await hearRaw(receiver, insert)))
  }
  const p50 = median(busy.map(median))
  const p99 = median(busy.map((times) => quantile(times, 0.99)))
  const name = 'the same at 100 events/s, p50'
  const ours = median(calm.ours)
  return [
    { name: 'reply on A to bytes at a client of B, 1,000 events/s, p50', ours: p50, unit: 'ms', goal: '≤ 3 ms' },
    { name: 'the same, p99', ours: p99, unit: 'ms', goal: '≤ 15 ms' },
    { name: 'the same, events lost', ours: lost, unit: '', goal: '= 0' },
    {
      ...{ name, ours, unit: 'ms', goal: '≤ 3× (≤ 2×)', note: DURABLE },
      peer: { name: 'raw NOTIFY, one way', value: median(calm.notify) },
    },
    {
      ...{ name, ours, unit: 'ms', goal: '≤ 3.5× (≤ 2.5×)' },
      peer: { name: 'one INSERT with NOTIFY, one way', value: median(calm.insert) },
    },
  ]
}

const DURABLE =
  'every delta is durable and numbered here, so it is two statements and a notification where the floor is the last of these'

async function prepareProducer(url: string) {
  const scene: Scene = await createScene(url, { poolMax: 4 })
  const { sql } = scene
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
  const runs = (await scene.held(CONVERSATIONS)).map((run) => ({ run, replies: writer.open(run, () => {}) }))
  return {
    ...{ scene, runs },
    async stop() {
      await writer.stop()
      await publisher.stop()
      await notifier.stop()
      await scene.close()
    },
  }
}

async function produceAndReceive({ runs }: Producer, { port }: Receiver, pace: typeof BUSY): Promise<number[]> {
  const total = pace.perSecond * pace.seconds
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
  await paced(pace, (n) => runs[n % runs.length]!.replies.event('tool-use', { at: performance.now(), text: TEXT }))
  await Promise.race([complete.promise, pause(10_000)])
  for (const close of closers) close()
  return times
}

/** Sends notifications that begin with the time of their sending, and returns how long each was under way. */
async function hearRaw({ replica }: Receiver, send: (payload: string) => Promise<unknown>): Promise<number[]> {
  const sent: Promise<unknown>[] = []
  await paced(CALM, () => sent.push(send(`${sharedNow()}|${TEXT}`).then()))
  await Promise.all(sent)
  await pause(100)
  return (await ask(replica, { kind: 'raw' })).raw!
}

/** Calls `produce` as often as the pace wants. */
async function paced({ perSecond, seconds }: typeof BUSY, produce: (n: number) => void): Promise<void> {
  const startedAt = performance.now()
  for (let sent = 0; sent < perSecond * seconds; ) {
    const due = Math.min(perSecond * seconds, Math.floor(((performance.now() - startedAt) / 1000) * perSecond))
    while (sent < due) produce(sent++)
    await pause(1)
  }
}

export async function forkReplica(url: string): Promise<Receiver> {
  const replica = fork(join(import.meta.dirname, 'sse-replica.ts'), [url])
  const [{ port }] = (await once(replica, 'message')) as [{ port: number }]
  return { replica, port }
}

export async function ask(replica: ChildProcess, order: Order): Promise<Report> {
  replica.send(order)
  const [report] = (await once(replica, 'message')) as [Report]
  return report
}

export async function stopReplica(replica: ChildProcess) {
  replica.disconnect()
  await once(replica, 'exit')
}
