import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { availableParallelism, totalmem } from 'node:os'
import { dirname, join } from 'node:path'

const MIB = 1024 * 1024
/** What the gateway itself may need, the embedded database not counted. */
const GATEWAY_MIB = 1024
/** Measured: an idle worker takes 11 MiB of its own, one in a turn up to 29; with room for what tools do. */
const WORKER_MIB = 48
/** A cgroup counts threads, not processes. Measured: a worker has 11, and its tools may start some more. */
const GATEWAY_THREADS = 64
const WORKER_THREADS = 16
const BUSY_PER_CORE = 25

/**
 * How many workers this machine or container can hold: (memory limit − 1 GiB) / 48 MiB, or fewer where the limit of
 * threads (`pids.max`) is nearer. At least 2, so that even a small one answers.
 */
export function defaultWorkersMax(memoryBytes = memoryLimitBytes(), threads = threadLimit()): number {
  const fit = (memoryBytes / MIB - GATEWAY_MIB) / WORKER_MIB
  return Math.max(2, Math.floor(Math.min(fit, (threads - GATEWAY_THREADS) / WORKER_THREADS)))
}

/**
 * How many turns run well at once here: most of a turn is waiting for a model, so 25 for each core. Node counts the cores
 * that a container may use (`cpu.max`), not those of the machine.
 */
export function defaultBusyMax(): number {
  return BUSY_PER_CORE * availableParallelism()
}

/** The memory that this process and its children may use: the least that any of its cgroups (version 2 or 1) or the machine has. */
export function memoryLimitBytes(root = '/'): number {
  const v2 = limitsAbove(root, { controller: '', mount: 'sys/fs/cgroup', file: 'memory.max' })
  const v1 = limitsAbove(root, {
    ...{ controller: 'memory', mount: 'sys/fs/cgroup/memory', file: 'memory.limit_in_bytes' },
  })
  return Math.min(totalmem(), ...v2, ...v1)
}

/** Threads that this process and its children may have. */
export function threadLimit(root = '/'): number {
  const v2 = limitsAbove(root, { controller: '', mount: 'sys/fs/cgroup', file: 'pids.max' })
  const v1 = limitsAbove(root, { controller: 'pids', mount: 'sys/fs/cgroup/pids', file: 'pids.max' })
  return Math.min(Number.POSITIVE_INFINITY, ...v2, ...v1)
}

/**
 * The limits of the cgroup that this process is in and of all above it: each holds for what lies below. A container sees
 * its own as the root. "max", and the huge number that version 1 says instead, are no limit.
 * https://docs.kernel.org/admin-guide/cgroup-v2.html, https://man7.org/linux/man-pages/man7/cgroups.7.html
 */
function limitsAbove(root: string, { controller, mount, file }: Record<'controller' | 'mount' | 'file', string>) {
  const limits: number[] = []
  for (let path = ownCgroup(root, controller); ; path = dirname(path)) {
    const limit = readNumber(join(root, mount, path, file))
    if (limit !== undefined) limits.push(limit)
    if (path === '/') return limits
  }
}

/** Lines are `<id>:<controllers>:<path>`; version 2 is the one without controllers. */
function ownCgroup(root: string, controller: string): string {
  for (const line of readText(join(root, 'proc/self/cgroup')).split('\n')) {
    const [, controllers = '', path = ''] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? []
    if (path !== '' && controllers.split(',').includes(controller)) return path.replaceAll('/..', '') || '/'
  }
  return '/'
}

/** Resident memory of a process in MiB; undefined when it is gone, or where there is no /proc. */
export async function residentMb(pid: number): Promise<number | undefined> {
  // `status` rather than `statm`: it does not depend on the size of a page.
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]
  return kilobytes === undefined ? undefined : Number(kilobytes) / 1024
}

function readNumber(file: string): number | undefined {
  const text = readText(file).trim()
  return /^\d+$/.test(text) ? Number(text) : undefined
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}
