import type { Choose, Decision, Ran, Scenario } from './schedule.ts'
import { runSchedule } from './schedule.ts'
import type { Stage } from './stage.ts'

export interface Explored {
  schedules: number
  /** The first schedule that broke something, and the decisions by which it is had again. */
  failure: Failure | null
  decisions: Decision[]
}

export interface Failure {
  scenario: string
  faults: string[]
  trace: string[]
}

/**
 * Runs every schedule of a scenario that has at most `switches` departures from the simplest one: places where a replica
 * that could go on has to stand back for another, or where a transaction does not end as it should. Most faults of
 * concurrent programs need one or two such places, and their number grows slowly with the length of the scenario.
 * https://www.microsoft.com/en-us/research/publication/iterative-context-bounding-for-systematic-testing-of-multithreaded-programs/
 *
 * A schedule is run anew from its beginning, follows a prefix, and then changes nothing any more; the places behind the
 * prefix give the next prefixes, so each schedule is run once. Those with fewer departures come first, so what is found
 * is found in its simplest form. `fault` names the faults that count.
 */
export async function exploreAll(
  stage: Stage,
  scenario: Scenario,
  { switches, fault = /./ }: { switches: number; fault?: RegExp },
): Promise<Explored> {
  let schedules = 0
  const due: Decision[][][] = [[[]]]
  for (let spent = 0; spent <= switches; spent++) {
    for (const prefix of due[spent] ?? []) {
      const ran = await runSchedule(stage, scenario, follow(prefix))
      schedules++
      if (ran.faults.some((one) => fault.test(one))) {
        return { schedules, failure: failureOf(scenario, ran), decisions: ran.chosen }
      }
      for (const { next, cost } of departures(ran, prefix.length)) {
        due[cost] ??= []
        due[cost].push(next)
      }
    }
  }
  return { schedules, failure: null, decisions: [] }
}

/** @throws Error when the prefix cannot be had again: then a schedule would not depend on its choices alone. */
export function follow(prefix: Decision[]): Choose {
  return (options, step) => {
    const wanted = prefix[step]
    if (!wanted) return options[0]!
    const found = options.find((option) => isSame(option, wanted))
    if (!found) throw new Error(`step ${step} of a schedule could not be repeated`)
    return found
  }
}

/** The prefixes that leave this schedule behind its first `from` steps, and how many departures each has. */
function departures({ options, chosen }: Ran, from: number): { next: Decision[]; cost: number }[] {
  const found: { next: Decision[]; cost: number }[] = []
  let spent = 0
  for (const [step, decision] of chosen.entries()) {
    const place = { here: options[step]!, last: chosen[step - 1] }
    for (const other of step < from ? [] : place.here) {
      if (isSame(other, decision)) continue
      found.push({ next: [...chosen.slice(0, step), other], cost: spent + costOf(other, place) })
    }
    spent += costOf(decision, place)
  }
  return found
}

function costOf(decision: Decision, { here, last }: { here: Decision[]; last: Decision | undefined }): number {
  const stoodBack = last !== undefined && decision.replica !== last.replica && here[0]!.replica === last.replica
  return Number(stoodBack) + Number(decision.fate !== 'commits')
}

function isSame(a: Decision, b: Decision): boolean {
  return a.replica === b.replica && a.fate === b.fate
}

export function failureOf({ name }: Scenario, { faults, trace }: Ran): Failure {
  return { scenario: name, faults, trace }
}
