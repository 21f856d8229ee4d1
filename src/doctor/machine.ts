import { execFile } from 'node:child_process'
import { constants } from 'node:fs'
import { access, stat, statfs } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, resolve } from 'node:path'
import { promisify } from 'node:util'
import type { Config } from '../config.ts'
import { errorLine } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import { createProcessLauncher, findWorkerEntry } from '../workers/launcher.ts'
import { defaultBusyMax, defaultWorkersMax, memoryLimitBytes, threadLimit } from '../workers/memory.ts'
import { type Finding, fail, ok, warn } from './finding.ts'

const MIB = 1024 * 1024
const FREE_MIB_MIN = 256
const WORKER_MS_MAX = 60_000
/** What an operator should reckon with for the gateway, and for each worker; `workers/memory.ts` derives its maximum from the same. */
const GATEWAY_MIB = 1024
const WORKER_MIB = 48

/** How much memory there is, and how many threads may be, and how many workers follow from them. */
export function checkMemory(
  { workers }: Config,
  limits: { bytes: number; threads: number } = { bytes: memoryLimitBytes(), threads: threadLimit() },
): Finding {
  const limit = Math.round(limits.bytes / MIB)
  const fit = defaultWorkersMax(limits.bytes, limits.threads)
  const max = workers.max ?? fit
  const busy = Math.min(workers.busyMax ?? defaultBusyMax(), max)
  const threads = Number.isFinite(limits.threads) ? `, ${limits.threads} threads` : ''
  const set = workers.max === undefined ? '' : ' (WORKERS_MAX)'
  const detail = `limit ${limit} MiB${threads}: at most ${max} workers${set}, ${busy} turns at once`
  if (limit < GATEWAY_MIB + 2 * WORKER_MIB)
    return warn('memory', detail, `give the gateway ${GATEWAY_MIB + 10 * WORKER_MIB} MiB or more`)
  if (max > fit) return warn('memory', `${detail}; ${fit} fit`, `set WORKERS_MAX to ${fit}, or raise the limits`)
  return ok('memory', detail)
}

/** Whether the folders that must be written to can be. Writes nothing. */
export async function checkDisk(config: Config): Promise<Finding[]> {
  const temporary = await checkFolder('temporary files', tmpdir(), 'mount a writable folder there, or set TMPDIR')
  const { jwt, betterAuth } = config.secrets
  const isNeeded = config.db.url === undefined || jwt === undefined || betterAuth === undefined
  if (!isNeeded)
    return [temporary, ok('data folder', 'LOBU_DATA_DIR is not needed: database and secrets come from outside')]
  return [
    temporary,
    await checkFolder('data folder', resolve(config.dataDir), 'make it writable, or set LOBU_DATA_DIR'),
  ]
}

async function checkFolder(name: string, dir: string, fix: string): Promise<Finding> {
  try {
    const there = await existing(dir)
    if (!(await stat(there)).isDirectory()) throw new Error(`${there} is no folder`)
    await access(there, constants.W_OK)
    const { bavail, bsize } = await statfs(there)
    const free = Math.floor((bavail * bsize) / MIB)
    if (free < FREE_MIB_MIN) return warn(name, `${dir} has only ${free} MiB left`, 'make room')
    return ok(name, `${dir} is writable`)
  } catch (error) {
    return fail(name, `${dir} cannot be written: ${errorLine(error)}`, fix)
  }
}

/** The folder, or the nearest one above it: what is missing is made at the start. */
async function existing(dir: string): Promise<string> {
  const isThere = await access(dir).then(
    () => true,
    () => false,
  )
  return isThere || dirname(dir) === dir ? dir : existing(dirname(dir))
}

/** Whether a worker's code loads and runs here, and what would hold a worker in. */
export async function checkWorkers(config: Config, log: Logger): Promise<Finding[]> {
  const entry = findWorkerEntry()
  const { memoryMb } = config.workers
  const launcher = createProcessLauncher({ log }, { entry, args: [], memoryMb, cacheDirs: [] })
  try {
    await launcher.start()
    const env = { PATH: '/usr/local/bin:/usr/bin:/bin', TMPDIR: tmpdir(), HOME: tmpdir() }
    await promisify(execFile)(process.execPath, [entry, '--prime'], { env, timeout: WORKER_MS_MAX })
    return [ok('workers', 'a worker starts'), isolationFinding(launcher.isolation), ...(await checkPrivacy())]
  } catch (error) {
    return [fail('workers', `a worker does not start: ${errorLine(error)}`, 'install the release anew, or free memory')]
  } finally {
    await launcher.stop()
  }
}

function isolationFinding(level: string): Finding {
  if (level !== 'advisory') return ok('isolation', level)
  return warn('isolation', 'advisory: the kernel does not wall workers in', 'let agents use only tools that you trust')
}

/**
 * Whether the kernel closes this process, and with it the gateway, to others of the same user: of a process whose program
 * its user may run and not read, `/proc` belongs to root. https://man7.org/linux/man-pages/man5/proc_pid.5.html
 */
async function checkPrivacy(): Promise<Finding[]> {
  const fault = await access('/proc/self/environ', constants.R_OK).then(
    () => null,
    (error: NodeJS.ErrnoException) => error.code,
  )
  if (fault === 'ENOENT') return []
  if (fault !== null) return [ok('privacy', 'no process of this user can read the memory of the gateway')]
  return [
    warn(
      'privacy',
      'processes of this user, workers among them, can read the memory of the gateway',
      'let it run as a user that may run but not read the program node (chmod 0711), as the image does',
    ),
  ]
}
