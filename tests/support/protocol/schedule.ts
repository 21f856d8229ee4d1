import { COMMIT, type Connection, type Fate } from './connection.ts'
import { judge } from './judge.ts'
import { type Ledger, observe, type Replica } from './ledger.ts'
import { claim, end, type Operation, perform, publish, read, say, sweep } from './operations.ts'
import type { Stage } from './stage.ts'
import { cancelStatement, isDeadlock, settle } from './waits.ts'

/** What up to three replicas do, each one thing after the other, all at the same time. */
export interface Scenario {
  readonly name: string
  readonly replicas: { before?: Operation[]; does: Operation[] }[]
  /** Any transaction may also die where it would commit, or commit without its holder knowing. */
  readonly withDeaths?: boolean
}

/** Which replica goes on by one step, and what becomes of its transaction when that step is a commit. */
export interface Decision {
  replica: number
  fate: Fate
}

/** What a schedule could have been at each of its steps, and what it was. */
export interface Ran {
  options: Decision[][]
  chosen: Decision[]
  /** In words, a line for each step. */
  trace: string[]
  faults: string[]
}

/** The first option is the one that changes least: whoever went on last goes on, and its transaction commits. */
export type Choose = (options: Decision[], step: number) => Decision

/** No schedule of ours has as many; one that has goes round in a circle. */
const STEPS_MAX = 400

interface Actor {
  connection: Connection
  replica: Replica
  operation: Operation | null
}

/**
 * Runs one schedule. At each step exactly one connection does something: it sends a statement, or its commit, and nothing
 * else happens until the server has answered or lets it wait. So what comes out depends on the choices alone.
 *
 * One that waits goes on when the lock is given to it, within the step that releases it. Two that wait would go on at the
 * same time, in an order that nobody chose; so a second one gives up, as if its connection had died, unless the two wait for
 * each other: that is a deadlock, and a fault.
 */
export async function runSchedule(stage: Stage, scenario: Scenario, choose: Choose): Promise<Ran> {
  try {
    return await runOn(stage, scenario, choose)
  } catch (error) {
    await stage.renew()
    throw error
  }
}

async function runOn(stage: Stage, scenario: Scenario, choose: Choose): Promise<Ran> {
  const { ledger, replicas } = await stage.clear()
  const actors = scenario.replicas.map(
    (_, index): Actor => ({ connection: stage.connections[index]!, replica: replicas[index]!, operation: null }),
  )
  const ran: Ran = { options: [], chosen: [], trace: [], faults: ledger.faults }
  for (const [index, { before = [] }] of scenario.replicas.entries()) {
    for (const operation of before) await doAtOnce({ actor: actors[index]!, operation, ledger })
  }
  await observe(stage.watcher, ledger)
  for (const [index, { does }] of scenario.replicas.entries()) {
    begin(actors[index]!, does, ledger)
    await settle(stage.watcher, { ...stage, moved: actors[index]!.connection })
  }
  await interleave(stage, { scenario, actors, ledger, choose, ran })
  await finish(stage, { actors, ledger })
  ledger.faults.push(
    ...judge(
      ledger,
      actors.map(({ replica }) => replica),
    ),
  )
  return { ...ran, faults: [...new Set(ledger.faults)] }
}

function begin(actor: Actor, does: Operation[], ledger: Ledger) {
  const { connection, replica } = actor
  const work = async () => {
    for (const operation of does) {
      actor.operation = operation
      await perform(operation, { sql: connection.sql, replica, ledger })
    }
    actor.operation = null
  }
  connection.run(work, { free: false })
}

async function interleave(
  stage: Stage,
  args: { scenario: Scenario; actors: Actor[]; ledger: Ledger; choose: Choose; ran: Ran },
) {
  const { actors, ran } = args
  let last = -1
  for (let step = 0; ; step++) {
    if (step > STEPS_MAX) throw new Error(`${args.scenario.name}: goes round in a circle`)
    const options = listOptions(actors, { last, withDeaths: args.scenario.withDeaths ?? false })
    if (options.length === 0) break
    const decision = args.choose(options, step)
    ran.options.push(options)
    ran.chosen.push(decision)
    const actor = actors[decision.replica]!
    ran.trace.push(describe(actor, decision))
    await go(stage, { ...args, actor, fate: decision.fate })
    last = decision.replica
  }
  if (actors.some(({ connection }) => connection.state() !== 'idle')) throw new Error('a connection never came back')
}

function listOptions(actors: Actor[], { last, withDeaths }: { last: number; withDeaths: boolean }): Decision[] {
  const numbers = actors.map((_, index) => index).sort((a, b) => Number(b === last) - Number(a === last) || a - b)
  return numbers.flatMap((replica): Decision[] => {
    const { connection } = actors[replica]!
    if (connection.state() !== 'parked') return []
    const fates: Fate[] = withDeaths && connection.place() === COMMIT ? ['commits', 'dies', 'mute'] : ['commits']
    return fates.map((fate) => ({ replica, fate }))
  })
}

/** One step, up to where nobody can go on by itself; then a look at what it has committed. */
async function go(
  { watcher, connections }: Stage,
  { actor, fate, ledger, ran }: { actor: Actor; actors: Actor[]; fate: Fate; ledger: Ledger; ran: Ran },
) {
  const { connection, operation } = actor
  const commits = connection.commits()
  connection.goOn(fate)
  const waiting = await settle(watcher, { connections, moved: connection })
  if (waiting.includes(connection)) {
    ran.trace.push('   … and waits')
    if (operation?.neverWaits) ledger.faults.push(`${operation.name} waited for somebody else`)
    const other = waiting.find((one) => one !== connection)
    if (other) {
      if (await isDeadlock(watcher, [connection, other])) {
        ledger.faults.push(`${operation?.name} and another wait for each other`)
        ran.trace.push('   … for one that waits for it')
      }
      ran.trace.push('   … and gives up')
      await cancelStatement(watcher, connection)
      await settle(watcher, { connections, moved: connection })
    }
  }
  if (connection.commits() > commits) await observe(watcher, ledger)
}

/** Beside the schedule: from beginning to end while nobody else does anything. */
async function doAtOnce({ actor, operation, ledger }: { actor: Actor; operation: Operation; ledger: Ledger }) {
  const { connection, replica } = actor
  ledger.alone = true
  connection.run(() => perform(operation, { sql: connection.sql, replica, ledger }), { free: true })
  await connection.settled()
  ledger.alone = false
}

/** More than any schedule leaves unfinished. */
const ROUNDS_MAX = 8

/** The world goes on: what is left is published, taken over and ended, and every reader comes back until it has it all. */
async function finish({ watcher }: Stage, { actors, ledger }: { actors: Actor[]; ledger: Ledger }) {
  const lastOne = actors.at(-1)!
  const [waiting] = await watcher<{ lowest: number | null }[]>`select min(id) as lowest from thread_response`
  if (actors.some(({ replica }) => replica.watermark.afterId >= (waiting!.lowest ?? Number.POSITIVE_INFINITY))) {
    ledger.faults.push('a publisher has forgotten a reply that waits')
  }
  await doAtOnce({ actor: lastOne, operation: publish, ledger })
  await observe(watcher, ledger)
  for (let round = 0; round < ROUNDS_MAX && ledger.now.openRuns > 0; round++) {
    await watcher`
      update runs set lease_until = now() - interval '1 second'
      where organization_id = ${ledger.organizationId} and conversation_id = ${ledger.conversationId} and state = 'running'`
    await observe(watcher, ledger)
    for (const operation of [sweep, claim, say(1), end]) await doAtOnce({ actor: lastOne, operation, ledger })
    await observe(watcher, ledger)
  }
  if (ledger.now.openRuns > 0) ledger.faults.push('a message never ended')
  for (const actor of actors.filter((one) => one === lastOne || hasRead(one.replica))) {
    for (let round = 0; round < ROUNDS_MAX && actor.replica.reader.position < ledger.now.lastSeq; round++) {
      await doAtOnce({ actor, operation: read(), ledger })
    }
  }
}

function hasRead({ reader }: Replica): boolean {
  return reader.head !== null || reader.position > 0
}

function describe({ connection, operation, replica }: Actor, { fate }: Decision): string {
  const words = connection.place().trim().replaceAll(/\s+/g, ' ').slice(0, 60)
  const ending = { commits: '', dies: ', and dies', mute: ', and nobody is told' }[fate]
  return `${replica.name}: ${operation?.name}: ${words}${ending}`
}
