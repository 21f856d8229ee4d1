/** What processes of this machine use, read from /proc. */
import { readdirSync, readFileSync } from 'node:fs'

/** Microseconds of CPU that all threads of a process have used so far; NaN when it is not on this machine. */
export function processCpuUs(pid: number): number {
  try {
    return readdirSync(`/proc/${pid}/task`)
      .map((task) => Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0]) / 1000)
      .reduce((sum, us) => sum + us, 0)
  } catch {
    return Number.NaN
  }
}

/** Resident memory of a process in MB. */
export function residentMb(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024
}

/** Of that, what only this process holds: the program and its libraries are shared by all workers. */
export function privateMb(pid: number): number {
  return rollupMb(pid, /^Private_\w+:\s+(\d+)/gm)
}

/** The same, and of what it shares its part: of processes that share with no others the sum is what they hold together. */
export function proportionalMb(pid: number): number {
  return rollupMb(pid, /^Pss:\s+(\d+)/gm)
}

function rollupMb(pid: number, lines: RegExp): number {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8')
  return [...rollup.matchAll(lines)].reduce((sum, [, kb]) => sum + Number(kb), 0) / 1024
}

/** A process that is gone has none. */
export function childrenOf(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((child) => {
      try {
        return Number(readFileSync(`/proc/${child}/stat`, 'utf8').split(') ')[1]!.split(' ')[1]) === pid
      } catch {
        return false
      }
    })
}

/** A process with all that it has started, and what these have. */
export function treeOf(pid: number): number[] {
  return [pid, ...childrenOf(pid).flatMap(treeOf)]
}

/** False also for one that has ended and that nobody has waited for yet. */
export function isAlive(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]![0] !== 'Z'
  } catch {
    return false
  }
}

/** Descriptors that a process started here can have at most. */
export function descriptorsMax(): number {
  const [, hard = ''] = /^Max open files\s+\S+\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? []
  return hard === 'unlimited' ? Number.POSITIVE_INFINITY : Number(hard)
}
