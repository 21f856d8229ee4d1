import { existsSync, mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { settlesWithin } from '../lib/settles-within.ts'
import type { GroupSignal, GroupSpec, GroupStreams, WorkerExit } from './groups.ts'

/** After a process has ended, what it had written is read within this time. */
const LAST_WORDS_MS = 1000

/** Without it a signal opens a debugger, by which one process could do as another does. Older versions of Node do not know it. */
export const NO_DEBUGGER = ['--disable-sigusr1'].filter((flag) => process.allowedNodeEnvironmentFlags.has(flag))

/** A process that runs. */
export interface StartedProcess extends GroupStreams {
  pid: number
}

/** A process that was asked for. */
export interface LaunchedProcess {
  /** Resolves when it runs; to undefined when it never will: then `exited` says why. */
  readonly started: Promise<StartedProcess | undefined>
  /** Resolves when the process has ended, its group is killed, and what it wrote was read. */
  readonly exited: Promise<WorkerExit>
  /** Signals the process and all that it has started, as soon as it runs. Harmless when they are gone. */
  signal(signal: GroupSignal): void
}

/** Starts processes. */
export interface Starter {
  /** Never throws. Each process has an empty private folder, removed at its end. */
  start(spec: Omit<GroupSpec, 'cwd'>): LaunchedProcess
  /** When all that was started has ended. What has not is killed. */
  stop(): Promise<void>
}

/** Folders of processes, below one of their own. */
export interface WorkerFolders {
  /** The one above them. */
  readonly dir: string
  make(): string
  removeAll(): Promise<void>
}

/** @throws where no temporary folder can be made. */
export function createWorkerFolders(): WorkerFolders {
  const makeParent = () => mkdtempSync(join(tmpdir(), 'lobu-'))
  let dir = makeParent()
  return {
    get dir() {
      return dir
    },
    make() {
      // Hosts tidy up their temporary files: a parent that is gone is made anew, under a name that nobody can have taken.
      if (!existsSync(dir)) dir = makeParent()
      return mkdtempSync(join(dir, 'w-'))
    },
    removeAll: () => removeFolder(dir),
  }
}

/** The gateway's side of a process, whoever its parent is: sees to its streams and its folder. */
export function superviseLaunch(of: LaunchedProcess, cwd: string): LaunchedProcess {
  const started = of.started.then((process) => process && { process, lastWords: listen(process) })
  const exited = of.exited.then(async (exit) => {
    const all = await started
    if (all) await endStreams(all)
    await removeFolder(cwd)
    return exit
  })
  return { started: started.then((all) => all?.process), exited, signal: of.signal }
}

function listen({ socket, stdout, stderr }: StartedProcess): Promise<unknown> {
  const streams = [socket, stdout, stderr]
  // EPIPE and the like: the end of the process says all there is to say.
  for (const stream of streams) stream.on('error', () => {})
  return Promise.all(streams.map(closing))
}

function closing(stream: Socket): Promise<void> {
  return new Promise((resolve) => (stream.closed ? resolve() : stream.once('close', () => resolve())))
}

async function endStreams({ process, lastWords }: { process: StartedProcess; lastWords: Promise<unknown> }) {
  const streams = [process.socket, process.stdout, process.stderr]
  // What nobody has asked for would otherwise never come to its end.
  for (const stream of streams) if (stream.readable) stream.resume()
  await settlesWithin(lastWords, LAST_WORDS_MS)
  // Something that left the group may hold the other ends open for ever.
  for (const stream of streams) stream.destroy()
}

/** Left-over folders in a temporary place hurt nobody; failing for them would. */
async function removeFolder(dir: string) {
  await rm(dir, { recursive: true, force: true, maxRetries: 3 }).catch(() => {})
}

export function failedLaunch(error: unknown): LaunchedProcess {
  const message = error instanceof Error ? error.message : String(error)
  const exit = { code: null, signal: null, error: message }
  return { started: Promise.resolve(undefined), exited: Promise.resolve(exit), signal() {} }
}
