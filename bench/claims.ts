/**
 * What a claim of 50 costs with nothing waiting, with those 50 alone, and with 100,000 and a million; and behind a million that
 * are done or due tomorrow; and whether it stays so while an old transaction keeps Postgres from removing what was worked off.
 *
 * Each backlog has a database of its own, and they take turns. A measured claim is rolled back, so the backlog stays.
 */
import postgres from 'postgres'
import { openDatabase, type Sql } from '../src/db/client.ts'
import { createPublisher } from '../src/queue/publisher.ts'
import { claimReadyRuns } from '../src/queue/runs.ts'
import { publishReplies } from '../src/queue/thread-response.ts'
import { createScene, PAYLOAD, type Scene } from './scene.ts'
import { isQuick, log, median, scaled, withDatabase } from './support.ts'
import type { Row } from './table.ts'

const SAMPLES = scaled(60)
const PAGE = 50
const BASE = isQuick ? 10_000 : 100_000
const MANY = BASE * 10
const PINNED_JOBS = scaled(100_000)
/** Of one conversation. Each leaves a version of the conversation's row behind, which all later ones walk over. */
const JOBS_EACH = 20
const LINE = `output ${JSON.stringify(PAYLOAD)}`
const CLAIM = { replica: 'bench', limit: PAGE, leaseMs: 60_000, organizationMax: 1e9, afterOrganization: '' }

export async function benchClaims(): Promise<Row[]> {
  return [...(await benchBacklogs()), ...(await benchPinned())]
}

/** What stands in the tables. A page is what one claim takes: with that alone nothing is left behind it. */
const BACKLOGS = {
  none: { ready: 0 },
  page: { ready: PAGE },
  base: { ready: BASE },
  many: { ready: MANY },
  done: { completed: MANY, ready: PAGE },
  scheduled: { delayed: MANY, ready: PAGE },
}
type Name = keyof typeof BACKLOGS
const WITH_REPLIES = ['none', 'page', 'base', 'many'] as const

async function benchBacklogs(): Promise<Row[]> {
  const names = Object.keys(BACKLOGS) as Name[]
  const runs = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<Name, number[]>
  const replies: Record<(typeof WITH_REPLIES)[number], number[]> = { none: [], page: [], base: [], many: [] }
  const scenes = new Map<Name, Scene>()
  const over = Promise.withResolvers<void>()
  /** Fills a database, and keeps it until all have been measured. The last one to be full measures. */
  const keep = (name: Name) =>
    withDatabase(async (url) => {
      const scene = await createScene(url, { poolMax: 2 })
      await fill(url, name, scene)
      scenes.set(name, scene)
      if (scenes.size === names.length) await measureInTurn(scenes, runs, replies).then(over.resolve)
      await over.promise
      await scene.close()
    })
  await Promise.all(names.map((name) => keep(name).catch(over.reject)))
  await over.promise
  return [...report(`claim ${PAGE} runs`, runs), ...report(`publish ${PAGE} replies`, replies)]
}

/** Both goals for a million: against 100,000, and against an empty table, where there is nothing to take. */
function report(
  what: string,
  found: Record<(typeof WITH_REPLIES)[number], number[]> & Partial<Record<Name, number[]>>,
): Row[] {
  const [base, many] = [BASE.toLocaleString('en'), MANY.toLocaleString('en')]
  const peers = {
    none: { name: 'nothing waiting', value: median(found.none) },
    page: { name: `those ${PAGE} waiting`, value: median(found.page) },
    base: { name: `${base} waiting`, value: median(found.base) },
  }
  const row = (name: string, times: number[], peer: keyof typeof peers, more: Partial<Row> = {}): Row => ({
    ...{ name, ours: median(times), peer: peers[peer], unit: 'ms', ...more },
  })
  const flat = '≤ 1.5× (≤ 1.2×)'
  const million = `${what}, ${many} waiting, p50`
  const behind = (['done', 'scheduled'] as const).flatMap((name) =>
    found[name] ? [row(`${what} behind ${many} ${name}, p50`, found[name], 'base', { goal: flat })] : [],
  )
  return [
    row(`${what}, those alone waiting, p50`, found.page, 'none', { note: 'the peer finds nothing, and takes nothing' }),
    row('the same', found.page, 'base'),
    row(million, found.many, 'base', { goal: flat }),
    row(million, found.many, 'page', { goal: '≤ 1.5×' }),
    row(million, found.many, 'none', { goal: '≤ 1.5×', note: NOTHING_TAKEN }),
    ...behind,
  ]
}

const NOTHING_TAKEN = `a claim that takes nothing has no rows to change; one that takes ${PAGE} has, whatever else waits`

/** By a connection that may take its time, as those of the product may not. */
async function fill(url: string, name: Name, scene: Scene) {
  const sql = postgres(url, { max: 1, onnotice: () => {} })
  await fillRuns(sql, scene, BACKLOGS[name])
  if (WITH_REPLIES.some((one) => one === name)) await fillReplies(sql, scene, BACKLOGS[name].ready)
  await vacuum(sql, 'runs, thread_response')
  // What was written is not to go to the disk while it is measured.
  await sql`checkpoint`
  await sql.end()
}

async function fillRuns(
  sql: postgres.Sql,
  { organizationId, conversations }: Scene,
  counts: Record<string, number>,
): Promise<void> {
  const [conversation] = await conversations(1)
  let turn = 0
  for (const [state, count] of Object.entries(counts)) {
    await sql.begin(async (tx) => {
      // A million look-ups of one conversation would measure nothing.
      await tx`set local session_replication_role = replica`
      await tx`
        insert into runs (organization_id, id, conversation_id, turn, message_id, state, due_at, ended_at)
        select ${organizationId}, gen_random_uuid(), ${conversation!}, ${turn} + n, 'm', ${state},
          case when ${state} = 'delayed' then now() + interval '1 day' end,
          case when ${state} = 'completed' then now() end
        from generate_series(1, ${count}::int) n`
    })
    turn += count
  }
}

async function fillReplies(sql: postgres.Sql, { organizationId, conversations }: Scene, count: number): Promise<void> {
  const names = await conversations(PAGE)
  await sql`
    insert into thread_response (organization_id, conversation_id, event_count, events)
    select ${organizationId}, (${names}::text[])[1 + n % ${PAGE}], 1, ${LINE} from generate_series(1, ${count}::int) n`
}

async function vacuum(sql: Pick<postgres.Sql, 'unsafe'>, tables: string) {
  await sql.unsafe(`vacuum (analyze) ${tables}`)
}

async function measureInTurn(
  scenes: Map<Name, Scene>,
  runs: Record<Name, number[]>,
  replies: Record<string, number[]>,
): Promise<void> {
  for (let sample = 0; sample < SAMPLES; sample++) {
    for (const [name, { sql }] of scenes) {
      runs[name].push(await timeRolledBack(sql, (tx) => claimReadyRuns(tx, CLAIM)))
      const waiting = replies[name]
      waiting?.push(await timeRolledBack(sql, (tx) => publishReplies(tx, { rowsMax: PAGE, afterId: 0 })))
      // What was rolled back is as dead as what was worked off.
      if (sample % 10 === 9) await vacuum(sql, 'runs, thread_response, conversations, event_log')
    }
  }
}

async function timeRolledBack(sql: Sql, claim: (tx: Sql) => Promise<unknown>): Promise<number> {
  const over = new Error('rolled back')
  let ms = 0
  await sql
    .begin(async (tx) => {
      const startedAt = performance.now()
      await claim(tx as unknown as Sql)
      ms = performance.now() - startedAt
      throw over
    })
    .catch((error: unknown) => {
      if (error !== over) throw error
    })
  return ms
}

/** Jobs go through the queue 50 at a time while one transaction, opened before, stays open. */
async function benchPinned(): Promise<Row[]> {
  return withDatabase(async (url) => {
    const scene = await createScene(url, { poolMax: 4 })
    const pin = await (await openDatabase({ url, poolMax: 2, dataDir: null, log })).dedicated()
    await pin.sql.unsafe("set idle_in_transaction_session_timeout = '10min'")
    await pin.sql.unsafe('begin isolation level repeatable read')
    await pin.sql.unsafe('select count(*) from runs')
    const replies = await publishWhilePinned(scene)
    const runs = await claimWhilePinned(scene)
    await pin.sql.unsafe('rollback')
    await pin.end()
    await scene.close()
    const row = (name: string, times: number[]): Row => {
      const edge = Math.ceil(times.length / 20)
      return {
        ...{ name, ours: median(times.slice(-edge)), unit: 'ms', goal: '≤ 2× (≤ 1.3×)' },
        peer: { name: 'at the start', value: median(times.slice(1, edge + 1)) },
      }
    }
    const jobs = PINNED_JOBS.toLocaleString('en')
    return [
      row(`publish 50 replies after ${jobs}, a transaction left open, p50`, replies),
      row(`claim 50 runs after ${jobs}, a transaction left open, p50`, runs),
    ]
  })
}

function pageOf(names: string[], at: number): string[] {
  return names.slice(at % names.length, (at % names.length) + PAGE)
}

async function publishWhilePinned({ sql, organizationId, conversations }: Scene): Promise<number[]> {
  const names = await conversations(PINNED_JOBS / JOBS_EACH)
  let published = () => {}
  const publisher = createPublisher({ sql, log, onPublished: () => published() }, { pollMs: 1_000 })
  await publisher.start()
  const times: number[] = []
  for (let n = 0; n < PINNED_JOBS; n += PAGE) {
    await sql`
      insert into thread_response (organization_id, conversation_id, event_count, events)
      select ${organizationId}, name, 1, ${LINE} from unnest(${pageOf(names, n)}::text[]) as x (name)`
    const startedAt = performance.now()
    const done = new Promise<void>((resolve) => {
      published = resolve
    })
    publisher.ring()
    await done
    times.push(performance.now() - startedAt)
  }
  await publisher.stop()
  return times
}

async function claimWhilePinned({ sql, organizationId, conversations }: Scene): Promise<number[]> {
  const times: number[] = []
  const names = await conversations(PINNED_JOBS / JOBS_EACH)
  for (let n = 0; n < PINNED_JOBS; n += PAGE) {
    await sql`
      insert into runs (organization_id, id, conversation_id, turn, message_id, state)
      select ${organizationId}, gen_random_uuid(), name, ${n} + 1, 'm', 'ready'
      from unnest(${pageOf(names, n)}::text[]) as x (name)`
    const startedAt = performance.now()
    const claimed = await claimReadyRuns(sql, CLAIM)
    times.push(performance.now() - startedAt)
    await sql`
      update runs set state = 'completed', ended_at = now(), replica = null, lease_until = null
      where id = any(${claimed.map((run) => run.id)}::uuid[])`
  }
  return times
}
