import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { existsSync, mkdtempSync } from 'node:fs'
import { rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Duplex, Readable } from 'node:stream'
import type { Logger } from '../lib/logger.ts'
import type { Service } from '../lib/service.ts'
import { settlesWithin } from '../lib/settles-within.ts'
import { findCompileCache } from './compile-cache.ts'
import { createGuard, type Guard } from './guard.ts'
import { GATEWAY_FD } from './protocol.ts'

/** Programs that a worker or its tools may find; the gateway's own PATH may hold more. */
const WORKER_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
/** The kernel takes workers first when memory runs out; 1000 would also beat processes of other containers. */
const OOM_SCORE = '800'
/** Without it a signal opens a debugger, by which one worker could do as another does. Older versions of Node do not know it. */
const NO_DEBUGGER = '--disable-sigusr1'
/** Share of a worker's memory that JavaScript objects may take; buffers and code need the rest. */
const HEAP_SHARE = 0.7
const PROBE_MS = 5000
/** After a process has ended, what it had written is read within this time. */
const LAST_WORDS_MS = 1000

/** How a process ended. `error` says why it never ran. */
export interface WorkerExit {
  code: number | null
  signal: NodeJS.Signals | null
  error?: string
}

/** One started process, which may turn out not to run at all: then `exited` resolves with an error. */
export interface LaunchedProcess {
  readonly pid: number | undefined
  /** Our end of the socketpair. */
  readonly socket: Duplex | undefined
  readonly stdout: Readable | undefined
  readonly stderr: Readable | undefined
  /** Resolves when the process has ended, its group is killed, and what it wrote was read. */
  readonly exited: Promise<WorkerExit>
  /** Signals the process and all that it has started. Harmless when they are gone. */
  signal(signal: 'SIGTERM' | 'SIGKILL'): void
}

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
 * Workers as plain child processes. Each leads a process group of its own, so that a kill takes what it has started
 * and Ctrl-C does not reach it; has an empty private folder, removed at its end; and inherits nothing but standard
 * output, standard error and its end of a socketpair. They end with the gateway: by their closed socket, by PDEATHSIG
 * where `setpriv` (util-linux) is there, and by the guard.
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
      if (!host) return failedLaunch('the launcher is not started')
      try {
        return superviseProcess(host, spawnWorker(host, options))
      } catch (error) {
        return failedLaunch(error instanceof Error ? error.message : String(error))
      }
    },
    async stop() {
      // One that could not start has nothing to stop; whoever started it was told why.
      const stopped = await starting?.catch(() => undefined)
      host = undefined
      await stopped?.guard.stop()
      if (stopped) await removeFolder(stopped.dir)
    },
  }
}

interface Host {
  /** Parent of the workers' folders. */
  dir: string
  guard: Guard
  /** Command that the worker's command is wrapped in. */
  wrapper: string[]
  cacheDir: string | undefined
}

async function prepareHost({ log }: { log: Logger }, options: LauncherOptions): Promise<Host> {
  const dir = makeParentFolder()
  const guard = createGuard({ log }, { dir })
  const isSource = options.entry.endsWith('.ts')
  const [setpriv, choom, cacheDir] = await Promise.all([
    probe(['setpriv', '--pdeathsig', 'KILL', '--']),
    probe(['choom', '-n', OOM_SCORE, '--']),
    isSource ? undefined : findCompileCache({ entry: options.entry, dirs: options.cacheDirs }),
  ])
  if (!cacheDir && !isSource) log.warn({ dirs: options.cacheDirs }, 'no compile cache: workers will start slowly')
  const wrapper = [...setpriv, ...choom]
  log.debug({ wrapper, cacheDir }, 'worker launcher is ready')
  return { dir, guard, cacheDir, wrapper }
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

function makeParentFolder(): string {
  return mkdtempSync(join(tmpdir(), 'lobu-'))
}

/** Hosts tidy up their temporary files: a parent that is gone is made anew, under a name that nobody can have taken. */
function makeWorkerFolder(host: Host): string {
  if (!existsSync(host.dir)) host.dir = makeParentFolder()
  return mkdtempSync(join(host.dir, 'w-'))
}

function spawnWorker(host: Host, options: LauncherOptions) {
  const cwd = makeWorkerFolder(host)
  const heapMb = Math.floor(options.memoryMb * HEAP_SHARE)
  // Small young generation: a worker makes little garbage, and there are hundreds of them.
  const node = [process.execPath, `--max-old-space-size=${heapMb}`, '--max-semi-space-size=1']
  if (process.allowedNodeEnvironmentFlags.has(NO_DEBUGGER)) node.push(NO_DEBUGGER)
  const [command, ...args] = [...host.wrapper, ...node, options.entry, ...options.args]
  const child = spawn(command!, args, {
    cwd,
    // Nothing of ours is passed on: the environment of a gateway is full of secrets.
    env: {
      PATH: WORKER_PATH,
      HOME: cwd,
      TMPDIR: cwd,
      LANG: 'C.UTF-8',
      // glibc keeps a heap for each thread; one for all saves a worker, which has one busy thread, a megabyte.
      MALLOC_ARENA_MAX: '1',
      TZ: 'UTC',
      ...(host.cacheDir ? { NODE_COMPILE_CACHE: host.cacheDir } : {}),
    },
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    detached: true,
    windowsHide: true,
  })
  return { child: child as ChildProcess, cwd }
}

function superviseProcess(host: Host, { child, cwd }: { child: ChildProcess; cwd: string }): LaunchedProcess {
  const { pid } = child
  // Without a free descriptor there are no streams at all, whatever the types say.
  const socket = (child.stdio?.[GATEWAY_FD] as Duplex | null | undefined) ?? undefined
  const lastWords = Promise.all([socket, child.stdout, child.stderr].map(closing))
  // EPIPE and the like: the end of the process says all there is to say.
  socket?.on('error', () => {})
  if (pid !== undefined) {
    host.guard.add(pid)
    writeFile(`/proc/${pid}/oom_score_adj`, OOM_SCORE).catch(() => {})
  }
  const ended = new Promise<WorkerExit>((resolve) => {
    // It also says of a signal that it could not be sent, and nobody must be without a listener for it.
    child.on('error', (error) => pid === undefined && resolve({ code: null, signal: null, error: error.message }))
    child.once('exit', (code, signal) => resolve({ code, signal }))
  })
  let isGone = pid === undefined
  const exited = ended.then(async (exit) => {
    // What it started is in its group, and keeps the group's number from being given to others until this kill.
    if (!isGone) signalGroup(child, 'SIGKILL')
    isGone = true
    await settlesWithin(lastWords, LAST_WORDS_MS)
    // Something that left the group may hold the other ends open for ever.
    for (const stream of [socket, child.stdout, child.stderr]) stream?.destroy()
    if (pid !== undefined) host.guard.remove(pid)
    await removeFolder(cwd)
    return exit
  })
  return {
    pid,
    socket,
    stdout: child.stdout ?? undefined,
    stderr: child.stderr ?? undefined,
    exited,
    signal(signal) {
      if (!isGone) signalGroup(child, signal)
    },
  }
}

function closing(stream: Duplex | Readable | null | undefined): Promise<void> {
  return new Promise((resolve) => (stream ? stream.once('close', () => resolve()) : resolve()))
}

function signalGroup(child: ChildProcess, signal: NodeJS.Signals) {
  try {
    process.kill(-child.pid!, signal)
  } catch {
    child.kill(signal)
  }
}

/** Left-over folders in a temporary place hurt nobody; failing for them would. */
async function removeFolder(dir: string) {
  await rm(dir, { recursive: true, force: true, maxRetries: 3 }).catch(() => {})
}

function failedLaunch(error: string): LaunchedProcess {
  const nothing = { pid: undefined, socket: undefined, stdout: undefined, stderr: undefined }
  return { ...nothing, exited: Promise.resolve({ code: null, signal: null, error }), signal() {} }
}
