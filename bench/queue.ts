/**
 * The queues against graphile-worker (batched local queue) and pg-boss (fetch 50), on one Postgres, in turn.
 *
 * Enqueue: eight callers, one row each. Ours is a whole accepted message (message, run, conversation), theirs a job.
 * Drain: a prepared backlog until it is gone. `thread_response` ends as events in the log, in order and numbered.
 */
import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import { PgBoss } from 'pg-boss'
import { type Database, openDatabase } from '../src/db/client.ts'
import { bootstrap } from '../src/domain/accounts/bootstrap.ts'
import { acceptMessage } from '../src/domain/messages/accept.ts'
import { endRun } from '../src/domain/runs/end.ts'
import { claimReadyRuns } from '../src/queue/runs.ts'
import { publishReplies } from '../src/queue/thread-response.ts'
import { inTurn, log, type Row, rate, withDatabase } from './support.ts'

const ROUNDS = 5
const ENQUEUED = 2_000
const DRAINED = 20_000
const RUNS = 1_000
const CALLERS = 8
const CONVERSATIONS = 200
const PAYLOAD = { type: 'delta', thread: 'th_0123456789abcdef', text: 'x'.repeat(140) }
const SIGNALS = {
  published() {},
  runReady() {},
  runsEnded() {},
  runEnded() {},
  conversationEnded() {},
  accessChanged() {},
}

export function benchQueue(): Promise<Row[]> {
  return withDatabase((ours) =>
    withDatabase(
      async (peers) => {
        const lobu = await prepareOurs(ours)
        const graphile = await prepareGraphile(peers)
        const boss = await prepareBoss(peers)
        try {
          return await compare(lobu, graphile, boss)
        } finally {
          await boss.stop()
          await graphile.stop()
          await lobu.db.close()
        }
      },
      { schema: false },
    ),
  )
}

type Ours = Awaited<ReturnType<typeof prepareOurs>>
type Peer = Awaited<ReturnType<typeof prepareGraphile>>

async function compare(lobu: Ours, graphile: Peer, boss: Peer): Promise<Row[]> {
  const rows: Row[] = []
  for (const [name, peer] of [
    ['graphile-worker', graphile],
    ['pg-boss', boss],
  ] as const) {
    const enqueue = await inTurn(ROUNDS, lobu.enqueue, peer.enqueue)
    rows.push({
      name: `accept a message, ${CALLERS} callers`,
      ours: enqueue.ours,
      peer: { name: `${name} enqueue`, value: enqueue.peer },
      unit: '/s',
    })
    const drain = await inTurn(ROUNDS, lobu.drainReplies, peer.drain)
    rows.push({
      name: 'thread_response drain, one replica',
      ours: drain.ours,
      peer: { name: `${name} drain`, value: drain.peer },
      unit: 'rows/s',
      goal: '≥ 5,000 rows/s',
    })
  }
  const runs = await inTurn(ROUNDS, lobu.drainRuns, graphile.drain)
  rows.push({
    name: 'runs claimed and ended (transcript, log, result), 8 workers',
    ours: runs.ours,
    peer: { name: 'graphile-worker drain', value: runs.peer },
    unit: '/s',
  })
  return rows
}

async function prepareOurs(url: string) {
  const db: Database = await openDatabase({ url, poolMax: 16, dataDir: null, log })
  const { sql } = db
  await bootstrap(sql, { onlyFirst: true })
  const [org] = await sql<{ id: string }[]>`select id from organizations`
  const organizationId = org!.id
  const names = Array.from({ length: Math.max(CONVERSATIONS, RUNS) }, (_, index) => `conv_${index}`)
  await sql`
    insert into conversations (organization_id, id, agent_id, user_id, thread)
    select ${organizationId}, name, 'assistant', 'bench', name from unnest(${names}::text[]) as x (name)`
  let serial = 0

  const accept = (index: number) =>
    acceptMessage(
      { sql, signals: SIGNALS },
      {
        ...{ organizationId, conversationId: names[index % names.length]!, messageId: `m${serial++}` },
        content: { role: 'user', content: PAYLOAD.text },
        ...{ text: PAYLOAD.text, bodyHash: 'hash', fileIds: [], onBusy: 'enqueue' as const },
        ...{ webhookUrl: null, traceparent: null },
      },
      {
        ...{
          replica: 'bench',
          leaseMs: 60_000,
          depthMax: 1_000_000,
          organizationMax: 1_000_000,
          workerIdleMs: 1,
          preferredMs: 1,
        },
        ...{ claimHere: false, workerHere: false },
      },
    )
  const clear = async () => {
    await sql`truncate runs, messages, event_log, thread_response`
    await sql`update conversations set open_runs = 0, last_turn = 0, last_seq = 0, end_seq = 0`
    await sql.unsafe('vacuum analyze')
  }

  return {
    db,
    async enqueue() {
      await clear()
      return rate(ENQUEUED, CALLERS, accept)
    },
    async drainReplies() {
      await clear()
      const line = `output ${JSON.stringify(PAYLOAD)}`
      await sql`
        insert into thread_response (organization_id, conversation_id, event_count, events)
        select ${organizationId}, 'conv_' || (n % ${CONVERSATIONS}), 1, ${line} from generate_series(1, ${DRAINED}) n`
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
      await rate(RUNS, CALLERS, accept)
      return drainRuns(db)
    },
  }
}

async function drainRuns({ sql }: Database): Promise<number> {
  const startedAt = performance.now()
  let done = 0
  const claim = { replica: 'bench', limit: 50, leaseMs: 60_000, organizationMax: 100_000, afterOrganization: '' }
  for (;;) {
    const claimed = await claimReadyRuns(sql, claim)
    if (claimed.length === 0) break
    await rate(claimed.length, CALLERS, (index) =>
      endRun({ sql, signals: SIGNALS }, { ...claimed[index]!, status: 'completed', text: PAYLOAD.text }),
    )
    done += claimed.length
  }
  return (done / (performance.now() - startedAt)) * 1000
}

async function prepareGraphile(url: string) {
  const logger = new Logger(() => () => {})
  const worker = { connectionString: url, concurrentJobs: 24, maxPoolSize: 25, pollInterval: 2_000, logger }
  const preset = { worker: { ...worker, localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } }
  const utils = await makeWorkerUtils({ preset })
  await utils.migrate()
  const database = await openDatabase({ url, poolMax: 2, dataDir: null, log })
  const clear = () => database.sql.unsafe('truncate graphile_worker._private_jobs')
  return {
    async enqueue() {
      await clear()
      return rate(ENQUEUED, CALLERS, () => utils.addJob('noop', PAYLOAD))
    },
    async drain() {
      await clear()
      for (let from = 0; from < DRAINED; from += 500) {
        await utils.addJobs(Array.from({ length: 500 }, () => ({ identifier: 'noop', payload: PAYLOAD })))
      }
      let done = 0
      const startedAt = performance.now()
      const finished = Promise.withResolvers<number>()
      const noop = async () => {
        if (++done === DRAINED) finished.resolve(performance.now())
      }
      const runner = await run({ preset, noHandleSignals: true, taskList: { noop } })
      const endedAt = await finished.promise
      await runner.stop()
      return (DRAINED / (endedAt - startedAt)) * 1000
    },
    async stop() {
      await utils.release()
      await database.close()
    },
  }
}

async function prepareBoss(url: string): Promise<Peer> {
  const boss = new PgBoss({ connectionString: url, max: 25, supervise: false, schedule: false })
  boss.on('error', () => {})
  await boss.start()
  await boss.createQueue('noop')
  return {
    async enqueue() {
      await boss.deleteAllJobs('noop')
      return rate(ENQUEUED, CALLERS, () => boss.send('noop', PAYLOAD))
    },
    async drain() {
      await boss.deleteAllJobs('noop')
      for (let from = 0; from < DRAINED; from += 500) {
        await boss.insert(
          'noop',
          Array.from({ length: 500 }, () => ({ data: PAYLOAD })),
        )
      }
      const startedAt = performance.now()
      await Promise.all(Array.from({ length: 4 }, () => drainBoss(boss)))
      return (DRAINED / (performance.now() - startedAt)) * 1000
    },
    stop: () => boss.stop({ graceful: false }),
  }
}

async function drainBoss(boss: PgBoss) {
  for (;;) {
    const jobs = await boss.fetch('noop', { batchSize: 50 })
    if (!jobs?.length) return
    await boss.complete(
      'noop',
      jobs.map((job) => job.id),
    )
  }
}
