import type { Database } from '../../../src/db/client.ts'
import { createRandom, type Random } from '../random.ts'
import { createScene } from '../scene.ts'
import type { World } from '../world.ts'
import { createModel, OPERATIONS, type Operation } from './model.ts'
import { createStepper, type Mutant, quiesce, type Stepper } from './stepper.ts'

/**
 * One move of a schedule: the connection goes on by one statement, or commits; when it has nothing to do it begins the
 * operation, and when it waits for a lock nothing happens. So a schedule stays one when moves are taken out.
 */
interface Move {
  connection: number
  operation: Operation
  dies: boolean
}

const CONNECTIONS = 3
/** Drawn by chance in each schedule. */
export const MOVES = 45
/** Schedules that may be tried to find a shorter one. */
const SHRINKS_MAX = 30

export interface Explored {
  schedules: number
  /** The seed of the first schedule that broke an invariant, and the shortest that still does. */
  failure: { seed: number; moves: string[]; faults: string[] } | null
}

/** Runs seeded schedules until one breaks an invariant (only those that `fault` names count), or there were enough. */
export async function explore(
  world: World,
  options: { seed: number; enough: (schedules: number) => boolean; mutant?: Mutant; fault?: RegExp },
): Promise<Explored> {
  const { mutant = (statement) => statement } = options
  const watcher = await world.replica({ poolMax: 2 })
  const databases = await Promise.all(Array.from({ length: CONNECTIONS }, () => world.replica({ poolMax: 1 })))
  const steppers = await Promise.all(databases.map((database) => createStepper(database, mutant)))
  const brokenBy = async (moves: Move[]) =>
    (await runSchedule({ watcher, steppers, world }, moves)).filter((fault) => options.fault?.test(fault) ?? true)
  const breaks = async (moves: Move[]) => (await brokenBy(moves)).length > 0

  let schedules = 0
  for (let seed = options.seed; !options.enough(schedules); seed++) {
    const moves = makeSchedule(createRandom(seed))
    schedules++
    let faults = await brokenBy(moves)
    if (faults.length === 0) continue
    // What a mutant breaks by timing alone would not be had again from its seed.
    if (options.mutant && !(await breaks(moves))) continue
    const short = await shrink(moves, async (fewer) => {
      const broken = await brokenBy(fewer)
      if (broken.length > 0) faults = broken
      return broken.length > 0
    })
    return { schedules, failure: { seed, moves: short.map(describeMove), faults } }
  }
  return { schedules, failure: null }
}

function makeSchedule(random: Random): Move[] {
  // Without these two nothing could be said; the rest is chance.
  const begin: Move[] = Array.from({ length: 3 }, () => ({ connection: 0, operation: 'claim', dies: false }))
  const rest = Array.from({ length: MOVES }, () => ({
    connection: random.int(0, CONNECTIONS - 1),
    operation: random.pick(OPERATIONS),
    dies: random.int(1, 12) === 1,
  }))
  return [...begin, ...rest]
}

/** What it broke, in words; nothing when all is well. Ends with every connection idle and the tables as they were. */
async function runSchedule(
  { watcher, steppers, world }: { watcher: Database; steppers: Stepper[]; world: World },
  moves: Move[],
): Promise<string[]> {
  const { sql } = watcher
  const undo: (() => Promise<unknown>)[] = []
  const scene = await createScene({ log: world.log, unique: world.unique, defer: (step) => void undo.push(step) }, sql)
  const model = await createModel(scene)
  for (const { connection, operation, dies } of moves) {
    const stepper = steppers[connection]!
    if (stepper.state() === 'parked') stepper.goOn()
    else if (stepper.state() === 'idle') {
      const failed = (error: unknown) => model.failed(operation, error)
      stepper.start((on) => model.perform(operation, on), { dies, failed })
    }
    await quiesce(sql, steppers)
  }
  await finish(sql, steppers)
  const faults = await model.judge()
  for (const step of undo.reverse()) await step()
  return faults
}

/** Lets every connection come to its end. A lock that nobody will release is found by the server, which ends one of them. */
async function finish(sql: Database['sql'], steppers: Stepper[]) {
  while (steppers.some((stepper) => stepper.state() !== 'idle')) {
    for (const stepper of steppers) {
      if (stepper.state() === 'parked') stepper.goOn()
      await quiesce(sql, steppers)
    }
  }
}

/** Takes out moves, many at first, as long as what is left still `fails`. */
async function shrink(moves: Move[], fails: (moves: Move[]) => Promise<boolean>): Promise<Move[]> {
  let best = moves
  let tries = 0
  for (let size = Math.ceil(best.length / 2); size >= 1; ) {
    let shorter = false
    for (let at = 0; at < best.length && tries < SHRINKS_MAX; ) {
      const fewer = best.toSpliced(at, size)
      tries++
      if (await fails(fewer)) {
        best = fewer
        shorter = true
      } else at += size
    }
    if (size === 1 && (!shorter || tries >= SHRINKS_MAX)) break
    size = size > 1 ? Math.ceil(size / 2) : 1
  }
  return best
}

function describeMove({ connection, operation, dies }: Move): string {
  return `${connection}: ${operation}${dies ? ' (dies before its commit)' : ''}`
}
