import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { Socket, type SocketConstructorOpts } from 'node:net'
import { join } from 'node:path'
import type { Logger } from '../lib/logger.ts'
import { settlesWithin } from '../lib/settles-within.ts'
import type { GroupSpec, GroupStreams, WorkerExit } from './groups.ts'
import { UNGUARDED } from './guard.ts'
import {
  createWorkerFolders,
  failedLaunch,
  type LaunchedProcess,
  NO_DEBUGGER,
  type StartedProcess,
  type Starter,
  superviseLaunch,
} from './launched.ts'
import { logOutput } from './output.ts'
import type { SpawnerOrder, SpawnerReport } from './spawner-protocol.ts'

const START_MS = 10_000
/** Longer than it takes to kill what is left and to end the guard. */
const STOP_MS = 4000
/** One that owes an answer and says nothing for this long hangs, or somebody has stopped it. It is killed. */
const SILENCE_MS = 10_000
/** We may have stood still ourselves, and its answer may lie before us. */
const SECOND_LOOK_MS = 1000
/** It holds next to nothing; what is small is copied fast. */
const NODE_FLAGS = ['--max-old-space-size=64', '--max-semi-space-size=1', '--v8-pool-size=1']
const GONE = 'the spawner of workers is gone'

/** One spawner process, and what it has started. */
export interface Spawner extends Starter {
  /** False once it has ended. All that it had started has ended then, too. */
  isRunning(): boolean
}

/** The spawner's script: in the build beside this bundle, in the sources beside this file. */
function findSpawnerEntry(): string {
  const built = join(import.meta.dirname, 'spawner.js')
  return existsSync(built) ? built : join(import.meta.dirname, 'spawner-main.ts')
}

/**
 * Starts a process that starts processes for us: a start copies the page tables of whoever starts, which stops the event
 * loop of a large gateway, and every stream with it, for a tenth of a second. It gets no secret, no argument and no descriptor
 * but the channel, a pipe that says whether we live, and its standard error; it leads a session of its own, so Ctrl-C does not
 * reach it.
 *
 *   start ──► spawner forks ──► socket, stdout, stderr (as descriptors) ──► started ──► … ──► ended
 *
 * Its end is the end of its workers: by PDEATHSIG, and by its guard, which kills their groups. Their turns are lost as if
 * each had crashed. Our end is its end: channel and pipe close.
 *
 * @throws when it does not come up; then nothing of it is left.
 */
export async function openSpawner({ log }: { log: Logger }, { silenceMs = SILENCE_MS } = {}): Promise<Spawner> {
  const folders = createWorkerFolders()
  const child = await spawnIn(folders)
  const gone = new Promise<string>((resolve) => {
    child.on('error', (error) => child.pid === undefined && resolve(error.message))
    child.once('exit', (code, signal) => resolve(`it ended with ${signal ?? code}`))
  })
  child.stdin?.on('error', () => {})
  if (child.stderr) logOutput(child.stderr, { log, level: 'warn' })
  const orders = takeOrders(child, { log, silenceMs })
  let state: 'starting' | 'running' | 'stopping' = 'starting'

  async function end(graceMs: number) {
    if (child.connected) child.disconnect()
    child.stdin?.destroy()
    if (!(await settlesWithin(gone, graceMs))) child.kill('SIGKILL')
    await settlesWithin(gone, STOP_MS)
    orders.close()
    await folders.removeAll()
  }

  child.once('disconnect', async () => {
    if (state === 'stopping') return
    orders.close()
    if (state === 'starting') return
    await end(0)
    log.warn({ spawner: child.pid, reason: await gone }, 'the spawner of workers is gone, and its workers with it')
  })
  const fault = await Promise.race([whenReady(child), gone, failsAfter(START_MS)])
  if (fault !== undefined) {
    await end(0)
    throw new Error(fault)
  }
  state = 'running'
  log.debug({ spawner: child.pid }, 'spawner is ready')

  return {
    isRunning: () => child.connected,
    start(spec) {
      try {
        const cwd = folders.make()
        return superviseLaunch(orders.start({ ...spec, cwd }), cwd)
      } catch (error) {
        return failedLaunch(error)
      }
    },
    async stop() {
      state = 'stopping'
      await end(STOP_MS)
    },
  }
}

/** @throws what spawn throws, such as for a lack of memory; then its folder is gone. */
async function spawnIn(folders: ReturnType<typeof createWorkerFolders>): Promise<ChildProcess> {
  try {
    return spawnSpawner(folders.dir)
  } catch (error) {
    await folders.removeAll()
    throw error
  }
}

function spawnSpawner(dir: string): ChildProcess {
  const flags = [...NODE_FLAGS, ...NO_DEBUGGER]
  return spawn(process.execPath, [...flags, findSpawnerEntry()], {
    cwd: dir,
    env: {},
    stdio: ['pipe', 'ignore', 'pipe', 'ipc'],
    detached: true,
    windowsHide: true,
  })
}

/** Its first report. */
function whenReady(child: ChildProcess): Promise<undefined> {
  return new Promise((resolve) => child.once('message', () => resolve(undefined)))
}

function failsAfter(ms: number): Promise<string> {
  return new Promise((resolve) => setTimeout(resolve, ms, `it was not ready in ${ms} ms`).unref())
}

/** A process of the spawner, as far as it has told. */
interface Launch {
  streams: Partial<GroupStreams>
  pid: number | undefined
  fault: string | undefined
  onStarted(process: StartedProcess | undefined): void
  onEnded(exit: WorkerExit): void
}

/** Talks to a spawner. */
function takeOrders(child: ChildProcess, { log, silenceMs }: { log: Logger; silenceMs: number }) {
  const launches = new Map<number, Launch>()
  const patience = createPatience(child, { log, silenceMs })
  let lastId = 0
  let isClosed = false
  let isGuarded = true

  function send(order: SpawnerOrder) {
    patience.owe()
    // That it did not arrive says the end of the channel, too.
    child.send(order, () => {})
  }

  function begin(launch: Launch, id: number, pid: number) {
    patience.settle()
    launch.pid = pid
    const { socket, stdout, stderr } = launch.streams
    if (socket && stdout && stderr) return launch.onStarted({ pid, socket, stdout, stderr })
    launch.fault = 'EMFILE: no descriptor was left for the streams of a process'
    for (const stream of Object.values(launch.streams)) stream.destroy()
    send({ type: 'signal', id, signal: 'SIGKILL' })
  }

  function end(launch: Launch, exit: WorkerExit) {
    launch.onStarted(undefined)
    launch.onEnded(launch.fault === undefined ? exit : { ...exit, error: launch.fault })
  }

  child.on('message', (message, handle) => {
    const report = message as SpawnerReport
    patience.hear()
    if (report.type === 'signalled') return patience.settle()
    if (report.type === 'unguarded') {
      isGuarded = false
      return log.warn({ err: report.reason }, UNGUARDED)
    }
    if (report.type === 'ready') return
    const launch = launches.get(report.id)
    if (!launch || (report.type === 'stream' && !handle)) return
    if (report.type === 'stream') launch.streams[report.name] = take(handle)
    else if (report.type === 'started') begin(launch, report.id, report.pid)
    else {
      launches.delete(report.id)
      if (launch.pid === undefined) patience.settle()
      end(launch, report.exit)
    }
  })

  return {
    start(spec: GroupSpec): LaunchedProcess {
      if (isClosed) return failedLaunch(GONE)
      const id = ++lastId
      const started = Promise.withResolvers<StartedProcess | undefined>()
      const exited = Promise.withResolvers<WorkerExit>()
      const more = { onStarted: started.resolve, onEnded: exited.resolve }
      launches.set(id, { streams: {}, pid: undefined, fault: undefined, ...more })
      send({ type: 'start', id, spec })
      return {
        started: started.promise,
        exited: exited.promise,
        signal(signal) {
          if (launches.has(id)) send({ type: 'signal', id, signal })
        },
      }
    },
    /** The channel is closed: what it has started is gone with it. */
    close() {
      isClosed = true
      patience.end()
      for (const launch of launches.values()) {
        for (const stream of launch.pid === undefined ? Object.values(launch.streams) : []) stream.destroy()
        if (launch.pid !== undefined && !isGuarded) killGroup(launch.pid)
        end(launch, { code: null, signal: 'SIGKILL', ...(launch.pid === undefined ? { error: GONE } : {}) })
      }
      launches.clear()
    },
  }
}

/** A stream over a handle of Node's. Nobody listens yet, and an error that nobody listens for would end the gateway. */
function take(handle: unknown): Socket {
  return new Socket({ handle, readable: true, writable: true } as SocketConstructorOpts).on('error', () => {})
}

/** Our last resort where there is no guard, which is quicker: by now the number could belong to somebody else. */
function killGroup(pid: number) {
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {}
}

/** Kills a spawner that owes an answer and says nothing. */
function createPatience(child: ChildProcess, { log, silenceMs }: { log: Logger; silenceMs: number }) {
  let owed = 0
  let timer: NodeJS.Timeout | undefined

  function wait(ms: number, then: () => void) {
    clearTimeout(timer)
    timer = owed > 0 ? setTimeout(then, ms) : undefined
  }
  const hear = () => wait(silenceMs, lookAgain)
  const lookAgain = () => wait(SECOND_LOOK_MS, giveUp)
  function giveUp() {
    log.warn({ spawner: child.pid }, 'the spawner of workers does not answer, and is killed')
    child.kill('SIGKILL')
  }

  return {
    hear,
    owe() {
      owed++
      if (owed === 1) hear()
    },
    settle() {
      owed--
      hear()
    },
    end: () => clearTimeout(timer),
  }
}
