import { describe, expect } from 'vitest'
import { findFaults } from '../support/checker.ts'
import { test } from '../support/cluster.ts'
import { effort } from '../support/effort.ts'
import { killProcess, requireProc, until } from '../support/gateway.ts'
import { hasPgBouncer, startPgBouncer } from '../support/pgbouncer.ts'
import { talk } from '../support/talk.ts'
import { wordsUpTo } from '../support/words.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('PgBouncer stands in front of it')
requireProc()

// Two connections to the server for all three replicas: each transaction lands on another one, and whoever keeps one
// for longer than a transaction holds up everybody.
test.override('clusterOptions', {
  replicas: 3,
  env: { WORKERS_WARM: '0', WORKER_IDLE_SECONDS: '1', RUN_ATTEMPTS_MAX: '20' },
  between: (url) => startPgBouncer(url, 'transaction'),
})

const WORDS = 200

// 29
describe.runIf(hasPgBouncer())('behind PgBouncer in transaction mode, without any LISTEN', () => {
  test('replicas are ready, and say what they found', async ({ cluster }) => {
    for (const { url: at } of cluster.replicas) {
      const { body } = await cluster.call('GET', '/health/ready', { at })
      expect(body).toMatchObject({ ready: true, listening: false, database: { pooler: true } })
    }
  })

  test('clients on any replica lose and repeat nothing, while workers and a replica are killed', async ({
    cluster,
  }) => {
    let isOver = false
    const clients = Promise.all(
      Array.from({ length: 12 }, (_, at) => talk(cluster, { name: `pooled-${at}`, goOn: () => !isOver })),
    )
    for (let round = 0; round < effort(1, 10); round++) {
      const running = cluster.replicas.filter((gateway) => !gateway.hasExited())
      for (const worker of running.flatMap((gateway) => gateway.workers())) killProcess(worker)
      const victim = cluster.random.pick(running)
      victim.signal('SIGKILL')
      await victim.exited
      cluster.balance()
      await cluster.add()
    }
    isOver = true
    expect(findFaults(await clients)).toEqual([])
  })

  test('a message sent fifty times at once starts one run; a cancel elsewhere ends it', async ({ cluster }) => {
    const conversation = await cluster.open()
    const follower = await conversation.follow()
    const body = { messageId: 'fifty', content: '/words 50000 /delay 10' }
    const answers = await Promise.all(Array.from({ length: 50 }, () => conversation.post(body)))
    expect(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size, answers[0]?.text).toBe(1)
    await follower.streamed('fifty', 5)
    const running = cluster.replicas.filter((gateway) => !gateway.hasExited())
    const elsewhere = running.find((gateway) => gateway.workers().length === 0) ?? running[0]!
    expect((await conversation.cancel({}, { at: elsewhere.url })).status).toBe(200)
    await follower.completed('fifty')
    const acknowledged = [{ messageId: 'fifty', status: 'cancelled' as const }]
    expect(findFaults([{ name: 'it', acknowledged, events: follower.events(), after: 0 }])).toEqual([])
    await until(() => running.every((gateway) => gateway.workers().length === 0), 'its process is gone')
    await follower.stop()
  })

  test('a frozen replica loses its turns to the others, and what it held of the pool', async ({ cluster }) => {
    const conversations = await Promise.all(Array.from({ length: 9 }, () => cluster.open()))
    const turns = await Promise.all(
      conversations.map(async (conversation) => {
        const follower = await conversation.follow()
        const { messageId } = await conversation.send(`/words ${WORDS} /delay 20`)
        await follower.streamed(messageId, 1)
        return { follower, messageId }
      }),
    )
    const running = cluster.replicas.filter((gateway) => !gateway.hasExited())
    const ids = await Promise.all(
      running.map(async ({ url: at }) => (await cluster.call('GET', '/health/ready', { at })).body.replica),
    )
    const own = conversations.map(({ id }) => id)
    // The one that has most of them, so that it has some in the moment in which it is frozen.
    const holder = await until(async () => {
      const [row] = await cluster.database.sql`
        select replica from runs where conversation_id = any(${own}) and state = 'running'
        group by replica order by count(*) desc limit 1`
      return row?.replica
    }, 'a replica has turns')
    const frozen = running[ids.indexOf(holder)]!
    frozen.signal('SIGSTOP')
    cluster.balance({ without: [frozen] })
    cluster.proxy.giveUp(frozen.port)
    await Promise.all(turns.map(({ follower, messageId }) => follower.completed(messageId)))
    frozen.signal('SIGCONT')
    await frozen.ready()
    const answer = wordsUpTo(WORDS)
    const seen = turns.map(({ follower, messageId }) => ({
      ...{ name: messageId, acknowledged: [{ messageId, answer }], after: 0 },
      ...{ events: follower.events(), faults: follower.faults },
    }))
    expect(findFaults(seen)).toEqual([])
    const taken = await cluster.database.sql`
      select 1 from runs where conversation_id = any(${own}) and fence > 1`
    expect(taken).not.toEqual([])
    for (const { follower } of turns) await follower.stop()
  })
})
