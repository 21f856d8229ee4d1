import { createRandom, type Random } from '../random.ts'
import { type Failure, failureOf } from './explore.ts'
import {
  cancel,
  claim,
  claimAndFreeze,
  end,
  giveUp,
  leave,
  moveInNextDoor,
  type Operation,
  post,
  prune,
  publish,
  read,
  say,
  sayNextDoor,
  steer,
  sweep,
} from './operations.ts'
import { type Choose, type Ran, runSchedule, type Scenario } from './schedule.ts'
import type { Stage } from './stage.ts'

/** What a replica may draw; what matters more stands here more often. */
const OPERATIONS: Operation[] = [
  ...[
    claim,
    claim,
    claimAndFreeze,
    claimAndFreeze,
    say(1),
    say(2),
    say(1),
    say(3),
    end,
    end,
    publish,
    publish,
    publish,
  ],
  ...[sweep, sweep, giveUp, prune, read(1), read(2), read(), read(), steer, sayNextDoor],
  ...[post(1), post(2), post(3), post(4, 'steer'), post(5, 'interrupt'), cancel(), cancel(1), cancel(2)],
]
/** Ends everything, so there is at most one in few schedules. */
const RARE = leave
const REPLICAS = 3

/** A long schedule, which depends on nothing but the seed: what three replicas do, and who goes on when. */
export async function runSeed(stage: Stage, seed: number): Promise<Ran> {
  return runSchedule(stage, drawScenario(createRandom(seed), seed), chooseBy(seed))
}

/** The failure of a seed in as few operations as it was found to need; null when nothing fails. */
export async function failureOfSeed(stage: Stage, seed: number): Promise<Failure | null> {
  let scenario = drawScenario(createRandom(seed), seed)
  let ran = await runSchedule(stage, scenario, chooseBy(seed))
  if (ran.faults.length === 0) return null
  for (let replica = 0; replica < REPLICAS; replica++) {
    for (let at = scenario.replicas[replica]!.does.length - 1; at >= 0; at--) {
      const fewer = without(scenario, { replica, at })
      const again = await runSchedule(stage, fewer, chooseBy(seed))
      if (again.faults.length > 0) [scenario, ran] = [fewer, again]
    }
  }
  return failureOf(scenario, ran)
}

function drawScenario(random: Random, seed: number): Scenario {
  const draw = () => (random.int(1, 40) === 1 ? RARE : random.pick(OPERATIONS))
  const replicas = Array.from({ length: REPLICAS }, () => ({ does: Array.from({ length: random.int(5, 10) }, draw) }))
  const [first, second] = replicas
  // Without a message that somebody works on, most of the rest would mean nothing.
  const before = [[post(1), random.pick([claim, claimAndFreeze]), say(2)], [moveInNextDoor]]
  return {
    name: `seed ${seed}`,
    replicas: [{ ...first!, before: before[0]! }, { ...second!, before: before[1]! }, ...replicas.slice(2)],
    withDeaths: true,
  }
}

/** Any replica that can go on; its transaction mostly ends as it should. */
function chooseBy(seed: number): Choose {
  const random = createRandom(seed + 0x5eed)
  return (options) => {
    const { replica } = random.pick(options)
    const own = options.filter((option) => option.replica === replica)
    return random.int(1, 6) === 1 ? random.pick(own) : own[0]!
  }
}

function without({ replicas, ...rest }: Scenario, { replica, at }: { replica: number; at: number }): Scenario {
  return {
    ...rest,
    replicas: replicas.map((one, index) => (index === replica ? { ...one, does: one.does.toSpliced(at, 1) } : one)),
  }
}
