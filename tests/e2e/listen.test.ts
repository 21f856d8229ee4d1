import { expect } from 'vitest'
import { findFaults } from '../support/checker.ts'
import { type Cluster, test } from '../support/cluster.ts'
import { until } from '../support/gateway.ts'
import { countListeners, endListeners } from '../support/listeners.ts'
import { talk } from '../support/talk.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('connections of a server are ended')

test.override('clusterOptions', { replicas: 3, env: { RUN_LEASE_SECONDS: '15' } })

/** Ends every connection of this database but the test's own, and resolves with how many there were. */
async function endConnections({ database }: Cluster): Promise<number> {
  const [own] = await database.sql<{ port: number }[]>`select pg_backend_pid() as port`
  const rows = await database.sql`
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> ${own!.port} and pid <> pg_backend_pid() and backend_type = 'client backend'`
  return rows.length
}

test('LISTEN connections that are ended again and again lose nothing and fail no request', async ({ cluster }) => {
  await talkDuring({ cluster, isAway: false }, async (turns) => {
    let ended = 0
    // Each of the three replicas is hit as soon as it listens again, through enough turns for some to end unheard.
    while (ended < 30 || turns() < 40) ended += await until(() => endListeners(cluster), 'a replica listens again')
  })
  await until(async () => {
    const reports = await Promise.all(
      cluster.replicas.map(({ url: at }) => cluster.call('GET', '/health/ready', { at })),
    )
    return reports.every(({ status, body }) => status === 200 && body.listening === true)
  }, 'all replicas listen again')
})

test('all connections to the database are ended at once, again and again, and no acknowledged message is lost', async ({
  cluster,
}) => {
  await talkDuring({ cluster, isAway: true }, async () => {
    for (let round = 0; round < 5; round++) {
      await endConnections(cluster)
      // The next blow falls when all have recovered from this one.
      await Promise.all(cluster.replicas.map((gateway) => gateway.ready()))
      await until(async () => (await countListeners(cluster)) === 3, 'all replicas listen again')
    }
  })
})

interface Talk {
  cluster: Cluster
  /** The database is away at times: requests may be answered 503, and are sent again. */
  isAway: boolean
}

/** Twelve clients talk until `work` is done, each on a stream that it keeps. What they saw must have no fault. */
async function talkDuring({ cluster, isAway }: Talk, work: (turns: () => number) => Promise<void>) {
  let isOver = false
  let turns = 0
  const goOn = () => {
    turns++
    return !isOver
  }
  const content = (marker: string) => `/echo ${marker} /words 40 /delay ${cluster.random.pick([1, 5, 20])}`
  const away = isAway ? / 503\b/ : null
  const clients = Promise.all(
    Array.from({ length: 12 }, (_, at) => talk(cluster, { name: `client-${at}`, goOn, content, away })),
  )
  await work(() => turns).finally(() => {
    isOver = true
  })
  expect(findFaults(await clients)).toEqual([])
}
