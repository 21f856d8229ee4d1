import { expect } from 'vitest'
import { findFaults } from '../support/checker.ts'
import { type Cluster, type Conversation, LEASE_SECONDS, test } from '../support/cluster.ts'
import { effort } from '../support/effort.ts'
import { killProcess, requireProc, until } from '../support/gateway.ts'
import { makeOrganization } from '../support/organization.ts'
import { talk } from '../support/talk.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('several replicas share it')
requireProc()

// Few places, so that they can be filled; no more than two connections for each replica, so that what held one would show.
// Nobody dies here but workers, so no lease should lapse, however busy the machine is.
const ENV = {
  WORKERS_BUSY_MAX: '4',
  ORG_RUNS_MAX: '6',
  DATABASE_POOL_MAX: '2',
  RUN_ATTEMPTS_MAX: '2',
  RUN_LEASE_SECONDS: '60',
}
test.override('clusterOptions', { replicas: 2, env: ENV })

/** Messages that never end by themselves, each in a conversation of its own. */
async function hang(cluster: Cluster, count: number, token: string, at?: string): Promise<Conversation[]> {
  return Promise.all(
    Array.from({ length: count }, async () => {
      const conversation = await cluster.open({}, { token })
      const answer = await conversation.post('/hang', at === undefined ? {} : { at })
      expect(answer.status, answer.text).toBe(200)
      return conversation
    }),
  )
}

async function countRunning({ database }: Cluster, organizationId: string): Promise<number> {
  const [row] = await database.sql<{ n: number }[]>`
    select count(*)::int as n from runs where organization_id = ${organizationId} and state = 'running'`
  return row!.n
}

// 19, 54: markers of one are looked for in what the other saw
test('an organization whose model hangs, with far more messages than places, delays no other', async ({ cluster }) => {
  const [noisy, quiet] = [await makeOrganization(cluster), await makeOrganization(cluster)]
  const hanging = await hang(cluster, 40, noisy.key)
  await until(async () => (await countRunning(cluster, noisy.slug)) >= 6, 'it has all the places that it may have')
  // Nothing of it ends meanwhile, so each of these turns found a place beside it.
  const options = (name: string, token: string) => ({
    name,
    goOn: (turn: number) => turn < effort(3, 10),
    call: { token },
  })
  const seen = await Promise.all([
    ...Array.from({ length: 6 }, (_, at) => talk(cluster, options(`quiet-${at}`, quiet.key))),
    talk(cluster, options('default', cluster.key)),
  ])
  expect(findFaults(seen)).toEqual([])
  const [row] = await cluster.database.sql<{ n: number }[]>`
    select count(*)::int as n from runs where organization_id = ${noisy.slug} and ended_at is not null`
  expect(row!.n).toBe(0)
  for (const conversation of hanging) await conversation.cancel()
})

// 30
test('fifty conversations on two connections a replica: none is held by a turn, and every question is answered', async ({
  cluster,
}) => {
  const { key } = await makeOrganization(cluster)
  const hanging = await hang(cluster, 8, key)
  const seen = await Promise.all(
    Array.from({ length: 50 }, (_, at) =>
      talk(cluster, {
        name: `pool-${at}`,
        goOn: (turn) => turn < effort(1, 20),
        content: (marker) => `/echo ${marker}`,
      }),
    ),
  )
  expect(findFaults(seen)).toEqual([])
  for (const conversation of hanging) await conversation.cancel()
})

// 30: fifty of them in the long form
test('turns that are live all at once on a pool of five keep no question waiting, and their leases', async ({
  cluster,
}) => {
  const { key, slug } = await makeOrganization(cluster)
  const live = effort(12, 50)
  const room = { WORKERS_BUSY_MAX: '60', WORKERS_MAX: '60', ORG_RUNS_MAX: '60', DATABASE_POOL_MAX: '5' }
  // Shorter than what follows, so that a run is only kept by being renewed; and some seconds more than elsewhere, for the
  // start of so many workers.
  const gateway = await cluster.add({ ...ENV, ...room, RUN_LEASE_SECONDS: String(LEASE_SECONDS + 4) })
  cluster.balance({ without: [gateway] })
  const { url: at } = gateway
  const hanging = await hang(cluster, live, key, at)
  await until(() => gateway.workers().length >= live, 'all of them have a worker')
  const paths = hanging.flatMap(({ id }) => [`/api/v1/agents/${id}`, `/api/v1/agents/${id}/history/session/messages`])
  const { sql } = cluster.database
  const [first] = await sql`select max(lease_until)::text as lease from runs where organization_id = ${slug}`
  for (let isLapsed = false; !isLapsed; ) {
    const answers = await Promise.all(
      [...paths, ...paths, ...paths].map((path) => cluster.call('GET', path, { at, token: key })),
    )
    expect(answers.filter(({ status }) => status !== 200)).toEqual([])
    // By the clock that leases go by; the other replicas have had a second to take what has lapsed.
    const [row] = await sql<{ isLapsed: boolean }[]>`
      select now() > ${first!.lease}::timestamptz + interval '1 second' as "isLapsed"`
    isLapsed = row!.isLapsed
  }
  expect(
    await sql`select fence, state, lease_until > ${first!.lease}::timestamptz as "isRenewed" from runs
      where organization_id = ${slug}`,
  ).toEqual(hanging.map(() => ({ fence: 1, state: 'running', isRenewed: true })))
  gateway.signal('SIGKILL')
  await gateway.exited
  for (const conversation of hanging) await conversation.cancel()
})

// 20
test('a turn that kills its worker every time ends as failed after its tries, leaves a dead letter, and the next goes on', async ({
  cluster,
}) => {
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const { messageId, runId } = await conversation.send('/hang')
  const behind = await conversation.send('/echo behind')
  const isOver = () => follower.events().some(({ name, data }) => name === 'complete' && data.messageId === messageId)
  await until(async () => {
    const [run] = await cluster.database.sql`select state from runs where id = ${runId}`
    // Spare ones too: whichever it is given next.
    if (run?.state === 'running') for (const pid of cluster.replicas.flatMap((one) => one.workers())) killProcess(pid)
    return isOver()
  }, 'it is given up')
  await follower.completed(behind.messageId)
  const seen = { name: 'poison', events: follower.events(), after: 0 }
  const acknowledged = [
    { messageId, answer: '', status: 'failed' as const },
    { messageId: behind.messageId, answer: 'behind' },
  ]
  expect(findFaults([{ ...seen, acknowledged }])).toEqual([])
  expect((await cluster.call('GET', `/api/v1/runs/${runId}`)).body).toMatchObject({ status: 'failed', attempt: 2 })
  const { body } = await cluster.call('GET', '/api/default/dead-letters')
  expect(body.deadLetters).toEqual([
    expect.objectContaining({
      ...{ id: runId, queue: 'runs', attempts: 2, conversationId: conversation.id, messageId },
      error: expect.any(String),
    }),
  ])
  await follower.stop()
})

// 20: a tool loop
test('a turn that calls tools without end is ended at the limit of its steps, and says so', async ({ cluster }) => {
  const conversation = await cluster.open()
  const follower = await conversation.follow()
  const { messageId } = await conversation.send('/tools 100')
  await follower.completed(messageId)
  const acknowledged = [{ messageId, status: 'failed' as const }]
  expect(findFaults([{ name: 'loop', events: follower.events(), acknowledged, after: 0 }])).toEqual([])
  const error = follower.events().find(({ name }) => name === 'error')
  expect(error?.data).toMatchObject({ messageId, code: 'steps_exhausted' })
  await follower.stop()
})

// 70
test('what is changed on one replica holds on all others at once', async ({ cluster }) => {
  const [here, there] = cluster.replicas.map(({ url }) => url)
  const created = await cluster.call('POST', '/api/default/agents', {
    body: { agentId: 'changing', name: 'A' },
    at: here!,
  })
  expect(created.status, created.text).toBe(201)
  for (let round = 0; round < 20; round++) {
    const changed = await cluster.call('PATCH', '/api/default/agents/changing', {
      body: { name: `n${round}` },
      at: here!,
    })
    expect(changed.status, changed.text).toBe(200)
    const read = await cluster.call('GET', '/api/default/agents/changing', { at: there! })
    expect(JSON.stringify(read.body)).toContain(`n${round}`)
  }
})

// 19: the last one here, since nobody waits for what it leaves
test('ten thousand runs that wait in one organization do not keep back the only one of another', async ({
  cluster,
}) => {
  const [noisy, quiet] = [await makeOrganization(cluster), await makeOrganization(cluster)]
  await fillQueue(cluster, noisy.slug, 10_000)
  await until(async () => (await countRunning(cluster, noisy.slug)) >= 6, 'it has all the places that it may have')
  const seen = await talk(cluster, { name: 'single', goOn: (turn) => turn <= 5, call: { token: quiet.key } })
  expect(findFaults([seen])).toEqual([])
  const [row] = await cluster.database.sql<{ waiting: number; ended: number }[]>`
    select count(*) filter (where state = 'ready')::int as waiting, count(ended_at)::int as ended from runs
    where organization_id = ${noisy.slug}`
  expect(row?.ended).toBe(0)
  expect(row?.waiting).toBeGreaterThan(9_900)
})

/** As accepting so many messages leaves them, each in a conversation of its own; none of them ends by itself. */
async function fillQueue({ database: { sql } }: Cluster, organizationId: string, count: number) {
  await sql.begin(async (tx) => {
    await tx`
      insert into conversations (organization_id, id, agent_id, user_id, thread, last_turn, open_runs)
      select ${organizationId}, 'conv_' || n, 'assistant', 'noisy', n, 1, 1 from generate_series(1, ${count}::int) n`
    await tx`
      insert into messages (organization_id, conversation_id, id, run_id, turn, position, role, content, text)
      select ${organizationId}, c.id, 'first', gen_random_uuid(), 1, 0, 'user', '{"role":"user","content":"/hang"}', '/hang'
      from conversations c where c.organization_id = ${organizationId}`
    await tx`
      insert into runs (organization_id, id, conversation_id, turn, message_id, state)
      select organization_id, run_id, conversation_id, turn, id, 'ready' from messages
      where organization_id = ${organizationId}`
  })
}
