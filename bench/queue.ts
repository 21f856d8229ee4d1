/**
 * The queues against graphile-worker (batched local queue) and pg-boss (fetch 50), on one Postgres, in turn.
 *
 * `thread_response` ends as numbered events in the log, in order; it is fenced by its run on the way in. `runs` are claimed
 * with a lease, a fencing number and a count of tries. The peers run jobs in no order, fence nothing and keep no log.
 */
import { endRun } from '../src/domain/runs/end.ts'
import { createPublisher } from '../src/queue/publisher.ts'
import { type ClaimedRun, claimReadyRuns } from '../src/queue/runs.ts'
import { insertReplies, publishReplies } from '../src/queue/thread-response.ts'
import { createReplyWriter } from '../src/workers/replies.ts'
import { prepareBoss, prepareGraphile, type QueuePeer } from './queue-peers.ts'
import { createScene, createWriter, PAYLOAD, SILENT } from './scene.ts'
import { inRounds, log, ROUNDS, rate, scaled, withDatabase } from './support.ts'
import type { Row } from './table.ts'

const ENQUEUED = scaled(2_000)
const DRAINED = scaled(20_000)
const RUNS_DRAINED = scaled(5_000)
const RUNS_ENDED = scaled(1_000)
const END_TO_END = scaled(3_200)
const CALLERS = 8
const PRODUCERS = 16
const CONVERSATIONS = 200
const PAGE = 50
const LINE = `output ${JSON.stringify(PAYLOAD)}`

export function benchQueue(): Promise<Row[]> {
  return withDatabase((ours) =>
    withDatabase(
      async (url) => {
        const lobu = await prepareOurs(ours)
        const peers = [await prepareGraphile(url), await prepareBoss(url)]
        try {
          return await compare(lobu, peers)
        } finally {
          for (const peer of peers) await peer.stop()
          await lobu.close()
        }
      },
      { schema: false },
    ),
  )
}

type Ours = Awaited<ReturnType<typeof prepareOurs>>

async function compare(lobu: Ours, [graphile, boss]: QueuePeer[]): Promise<Row[]> {
  const single = { batch: 1, callers: PRODUCERS }
  const fifties = { batch: PAGE, callers: 2 }
  const enqueue = await inRounds(ROUNDS, {
    replies: lobu.enqueueReplies,
    messages: lobu.enqueueMessages,
    graphile: () => graphile!.enqueue(ENQUEUED, CALLERS),
    boss: () => boss!.enqueue(ENQUEUED, CALLERS),
  })
  const one = await inRounds(ROUNDS, {
    ours: () => lobu.endToEnd(END_TO_END, single),
    writer: () => lobu.streamed(DRAINED),
    graphile: () => graphile!.endToEnd(END_TO_END, single),
  })
  const fifty = await inRounds(ROUNDS, {
    ours: () => lobu.endToEnd(DRAINED, fifties),
    graphile: () => graphile!.endToEnd(DRAINED, fifties),
  })
  const drain = await inRounds(ROUNDS, {
    replies: lobu.drainReplies,
    runs: lobu.drainRuns,
    ended: lobu.endRuns,
    graphile: () => graphile!.drain(DRAINED),
    boss: () => boss!.drain(DRAINED),
  })
  const graphileOf = (value: number) => ({ name: 'graphile-worker', value })
  const bossOf = (value: number) => ({ name: 'pg-boss', value })
  const row = (name: string, ours: number, peer: Row['peer'], goal?: string, note?: string): Row => ({
    ...{ name, ours, peer, goal, note },
    unit: '/s',
  })
  const accepts = 'message, run and conversation in one statement, which waits for the disk'
  return [
    row('thread_response: single-row enqueue, 8 callers', enqueue.replies, graphileOf(enqueue.graphile), ENQUEUE_GOAL),
    row('the same', enqueue.replies, bossOf(enqueue.boss)),
    row('accept a message, 8 callers', enqueue.messages, graphileOf(enqueue.graphile), undefined, accepts),
    row('the same', enqueue.messages, bossOf(enqueue.boss)),
    row('thread_response end to end, single-row producers', one.ours, graphileOf(one.graphile), '≥ 3× (≥ 6×)'),
    row(
      ...([
        'the same events through the writer of a replica',
        one.writer,
        graphileOf(one.graphile),
        undefined,
      ] as const),
      'one statement in flight, what comes meanwhile goes with the next',
    ),
    row('thread_response end to end, producers of 50', fifty.ours, graphileOf(fifty.graphile), '≥ 1.5× (≥ 2.5×)'),
    row('thread_response drain, one replica', drain.replies, graphileOf(drain.graphile), '≥ 20,000 /s; ≥ 0.8×'),
    row('the same', drain.replies, bossOf(drain.boss)),
    row('runs drain: claim 50, complete 50', drain.runs, graphileOf(drain.graphile), '≥ 1× (≥ 1.4×)', RUNS_NOTE),
    row('the same', drain.runs, bossOf(drain.boss), '≥ 1.5× (≥ 2.5×)'),
    row('runs claimed and ended in full, 8 workers', drain.ended, graphileOf(drain.graphile), undefined, ENDED_NOTE),
  ]
}

/** The floor of the ratios in one run, and the goal of the path. */
const ENQUEUE_GOAL = '≥ 4×; ≥ 5× (≥ 6×)'
const RUNS_NOTE =
  'the claim of the product, completed by one statement for 50 runs; a turn ends alone, see the last line'
const ENDED_NOTE = 'each its own transaction: lock, replies, log, transcript, result, next run; not the same work'

async function prepareOurs(url: string) {
  const scene = await createScene(url)
  const { sql, organizationId } = scene
  const names = await scene.conversations(RUNS_ENDED)
  const clear = async () => {
    await sql`truncate runs, messages, event_log, thread_response`
    await sql`update conversations set open_runs = 0, last_turn = 0, last_seq = 0, end_seq = 0`
    await sql.unsafe('vacuum analyze runs, messages, event_log, thread_response, conversations')
  }
  const write = createWriter(scene, SILENT)
  const accept = (index: number) => write(names[index % names.length]!)

  /** A producer's next batches: one event each, of as many runs. */
  function producer(runs: ClaimedRun[]) {
    const sent = new Map<string, number>()
    return () =>
      insertReplies(
        sql,
        runs.map((run) => {
          const batch = (sent.get(run.id) ?? 0) + 1
          sent.set(run.id, batch)
          return { ...run, batch, eventCount: 1, events: LINE }
        }),
      )
  }

  /** Runs `produce` beside a publisher, until so many events are in the log. Returns events a second. */
  async function untilPublished(total: number, produce: (ring: () => void) => Promise<unknown>) {
    let done = 0
    const finished = Promise.withResolvers<void>()
    const publisher = createPublisher(
      {
        ...{ sql, log },
        onPublished(published) {
          for (const { firstSeq, lastSeq } of published) done += lastSeq - firstSeq + 1
          if (done >= total) finished.resolve()
        },
      },
      { pollMs: 1_000 },
    )
    await publisher.start()
    const startedAt = performance.now()
    await produce(publisher.ring)
    await finished.promise
    const perSecond = (total / (performance.now() - startedAt)) * 1000
    await publisher.stop()
    return perSecond
  }

  return {
    close: scene.close,
    async enqueueReplies() {
      await clear()
      const runs = await scene.held(CALLERS)
      const producers = runs.map((run) => producer([run]))
      // Each caller has a run of its own, as each run has a replica of its own.
      const each = ENQUEUED / CALLERS
      return rate(CALLERS, CALLERS, async (index) => {
        for (let n = 0; n < each; n++) await producers[index]!()
      }).then((perSecond) => perSecond * each)
    },
    async enqueueMessages() {
      await clear()
      return rate(ENQUEUED, CALLERS, accept)
    },
    async endToEnd(total: number, { batch, callers }: { batch: number; callers: number }) {
      await clear()
      const runs = await scene.held(batch * callers)
      const producers = Array.from({ length: callers }, (_, n) => producer(runs.slice(n * batch, (n + 1) * batch)))
      const each = total / batch / callers
      return untilPublished(total, (ring) =>
        rate(callers, callers, async (index) => {
          for (let n = 0; n < each; n++) {
            await producers[index]!()
            ring()
          }
        }),
      )
    },
    async streamed(total: number) {
      await clear()
      const runs = await scene.held(PRODUCERS)
      return untilPublished(total, async (ring) => {
        const writer = createReplyWriter({ sql, log, onInserted: ring })
        const replies = runs.map((run) => writer.open(run, () => {}))
        for (let n = 0; n < total; n++) {
          replies[n % PRODUCERS]!.event('output', PAYLOAD)
          if (n % 200 === 0) await new Promise(setImmediate)
        }
      })
    },
    async drainReplies() {
      await clear()
      await sql`
        insert into thread_response (organization_id, conversation_id, event_count, events)
        select ${organizationId}, 'conv_' || (1 + n % ${CONVERSATIONS}), 1, ${LINE} from generate_series(1, ${DRAINED}) n`
      const startedAt = performance.now()
      for (let afterId = 0, seen = 1; seen > 0; ) {
        const pass = await publishReplies(sql, { rowsMax: 500, afterId })
        seen = pass.seen
        afterId = Math.max(0, pass.lowestId - 1_000)
      }
      return (DRAINED / (performance.now() - startedAt)) * 1000
    },
    async drainRuns() {
      await clear()
      const fresh = await scene.conversations(RUNS_DRAINED)
      await sql`
        insert into runs (organization_id, id, conversation_id, turn, message_id, state)
        select ${organizationId}, gen_random_uuid(), name, 1, 'm', 'ready' from unnest(${fresh}::text[]) as x (name)`
      await sql.unsafe('vacuum analyze runs')
      const startedAt = performance.now()
      const done = await Promise.all([completeAll(), completeAll(), completeAll(), completeAll()])
      const total = done.reduce((sum, count) => sum + count, 0)
      const perSecond = (total / (performance.now() - startedAt)) * 1000
      if (total !== RUNS_DRAINED) throw new Error(`${total} runs were completed`)
      return perSecond
    },
    async endRuns() {
      await clear()
      await rate(RUNS_ENDED, CALLERS, accept)
      const startedAt = performance.now()
      for (;;) {
        const claimed = await claimReadyRuns(sql, CLAIM)
        if (claimed.length === 0) break
        await rate(claimed.length, CALLERS, (index) =>
          endRun({ sql, signals: SILENT }, { ...claimed[index]!, status: 'completed', text: PAYLOAD.text }),
        )
      }
      return (RUNS_ENDED / (performance.now() - startedAt)) * 1000
    },
  }

  async function completeAll(): Promise<number> {
    let done = 0
    for (;;) {
      const claimed = await claimReadyRuns(sql, CLAIM)
      if (claimed.length === 0) return done
      const completed = await sql`
        update runs r set state = 'completed', ended_at = now(), replica = null, lease_until = null
        from unnest(${claimed.map((run) => run.id)}::uuid[], ${claimed.map((run) => run.fence)}::bigint[]) as x (id, fence)
        where r.id = any(array(select unnest(${claimed.map((run) => run.id)}::uuid[])))
          and r.id = x.id and r.fence = x.fence and r.state = 'running' returning 1`
      done += completed.length
    }
  }
}

const CLAIM = { replica: 'bench', limit: PAGE, leaseMs: 60_000, organizationMax: 100_000, afterOrganization: '' }
