import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Logger } from '../lib/logger.ts'
import type { Service } from '../lib/service.ts'
import { findCompileCache } from './compile-cache.ts'
import { OOM_SCORE } from './groups.ts'
import { failedLaunch, type LaunchedProcess, NO_DEBUGGER, type Starter } from './launched.ts'
import { createStarter } from './starter.ts'

/** Programs that a worker or its tools may find; the gateway's own PATH may hold more. */
const WORKER_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
/** Share of a worker's memory that JavaScript objects may take; buffers and code need the rest. */
const HEAP_SHARE = 0.7
const PROBE_MS = 5000

/**
 * What holds a worker in: `advisory` means that it has its own process group, an empty folder and no secret in its
 * environment, but the system would let it open files and sockets as the gateway's user may.
 */
export type Isolation = 'advisory'

/** Starts worker processes. `start` before the first launch; `stop` when all that was launched has ended. */
export interface Launcher extends Service {
  readonly isolation: Isolation
  /** Never throws. */
  launch(): LaunchedProcess
}

export interface LauncherOptions {
  /** The script that a worker runs. */
  entry: string
  /** Passed to it, such as the provider to preload. */
  args: string[]
  memoryMb: number
  /** Folders that may hold the worker's compile cache, best first. */
  cacheDirs: string[]
}

/** The worker's script: in the build beside this bundle, in the sources beside this file. */
export function findWorkerEntry(): string {
  const built = join(import.meta.dirname, 'worker', 'main.js')
  return existsSync(built) ? built : join(import.meta.dirname, 'child', 'main.ts')
}

/** Where a build keeps the compile cache of the worker at `entry`. */
export function builtCacheDir(entry: string): string {
  return join(dirname(entry), '.cache')
}

/**
 * Workers as plain processes. Each leads a process group of its own, so that a kill takes what it has started and Ctrl-C
 * does not reach it; has an empty private folder, removed at its end; and inherits nothing but standard output, standard
 * error and its end of a socketpair. A small process beside us starts them: `spawner.ts` says why. They end with the
 * gateway: by their closed socket, by PDEATHSIG where `setpriv` (util-linux) is there, by the spawner and by its guard.
 */
export function createProcessLauncher({ log }: { log: Logger }, options: LauncherOptions): Launcher {
  let host: Host | undefined
  let starting: Promise<Host> | undefined

  return {
    name: 'worker-launcher',
    isolation: 'advisory',
    async start() {
      starting ??= prepareHost({ log }, options)
      host = await starting
    },
    launch() {
      return host ? host.starter.start(workerSpec(host, options)) : failedLaunch('the launcher is not started')
    },
    async stop() {
      // One that could not start has nothing to stop; whoever started it was told why.
      const stopped = await starting?.catch(() => undefined)
      host = undefined
      await stopped?.starter.stop()
    },
  }
}

interface Host {
  starter: Starter
  /** Command that the worker's command is wrapped in. */
  wrapper: string[]
  cacheDir: string | undefined
}

async function prepareHost({ log }: { log: Logger }, options: LauncherOptions): Promise<Host> {
  const isSource = options.entry.endsWith('.ts')
  const [starter, setpriv, choom, cacheDir] = await Promise.all([
    createStarter({ log }),
    probe(['setpriv', '--pdeathsig', 'KILL', '--']),
    probe(['choom', '-n', OOM_SCORE, '--']),
    // As without one, where the program is missing: its start tells more.
    isSource ? undefined : findCompileCache({ entry: options.entry, dirs: options.cacheDirs }).catch(() => undefined),
  ])
  if (!cacheDir && !isSource) log.warn({ dirs: options.cacheDirs }, 'no compile cache: workers will start slowly')
  const wrapper = [...setpriv, ...choom]
  log.debug({ wrapper, cacheDir }, 'worker launcher is ready')
  return { starter, cacheDir, wrapper }
}

/** The wrapper, where it works here; else nothing. */
function probe(wrapper: string[]): Promise<string[]> {
  const [command, ...args] = [...wrapper, 'true']
  return new Promise((resolve) => {
    execFile(command!, args, { timeout: PROBE_MS, env: { PATH: WORKER_PATH } }, (error) =>
      resolve(error ? [] : wrapper),
    )
  })
}

function workerSpec(host: Host, options: LauncherOptions) {
  const heapMb = Math.floor(options.memoryMb * HEAP_SHARE)
  // Small young generation: a worker makes little garbage, and there are hundreds of them.
  const node = [process.execPath, `--max-old-space-size=${heapMb}`, '--max-semi-space-size=1', ...NO_DEBUGGER]
  const [command, ...args] = [...host.wrapper, ...node, options.entry, ...options.args]
  const env = {
    PATH: WORKER_PATH,
    LANG: 'C.UTF-8',
    // glibc keeps a heap for each thread; one for all saves a worker, which has one busy thread, a megabyte.
    MALLOC_ARENA_MAX: '1',
    TZ: 'UTC',
    ...(host.cacheDir ? { NODE_COMPILE_CACHE: host.cacheDir } : {}),
  }
  return { command: command!, args, env }
}
