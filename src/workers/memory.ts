import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { availableParallelism, totalmem } from 'node:os'

const MIB = 1024 * 1024
/** What the gateway itself may need, the embedded database not counted. */
const GATEWAY_MIB = 1024
/** Measured: an idle worker takes 11 MiB of its own, one in a turn up to 29; with room for what tools do. */
const WORKER_MIB = 48
const BUSY_PER_CORE = 25

/** How many workers this machine or container can hold: (memory limit − 1 GiB) / 48 MiB, at least 2, at most 300. */
export function defaultWorkersMax(memoryBytes = memoryLimitBytes()): number {
  const fit = Math.floor((memoryBytes / MIB - GATEWAY_MIB) / WORKER_MIB)
  return Math.min(300, Math.max(2, fit))
}

/** How many turns run well at once here: most of a turn is waiting for a model, so 25 for each core. */
export function defaultBusyMax(): number {
  return BUSY_PER_CORE * availableParallelism()
}

/** The memory that this process and its children may use: the container's limit (cgroup 2, then 1) or the machine's. */
export function memoryLimitBytes(): number {
  for (const file of ['/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes']) {
    const bytes = readNumber(file)
    if (bytes !== undefined) return Math.min(bytes, totalmem())
  }
  return totalmem()
}

/** Resident memory of a process in MiB; undefined when it is gone, or where there is no /proc. */
export async function residentMb(pid: number): Promise<number | undefined> {
  // `status` rather than `statm`: it does not depend on the size of a page.
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]
  return kilobytes === undefined ? undefined : Number(kilobytes) / 1024
}

function readNumber(file: string): number | undefined {
  try {
    const text = readFileSync(file, 'utf8').trim()
    return /^\d+$/.test(text) ? Number(text) : undefined
  } catch {
    return undefined
  }
}
