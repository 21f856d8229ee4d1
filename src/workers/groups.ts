import { type ChildProcess, spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import type { Socket } from 'node:net'
import { settlesWithin } from '../lib/settles-within.ts'
import { createGuard } from './guard.ts'
import { GATEWAY_FD } from './protocol.ts'

/** The kernel takes workers first when memory runs out; 1000 would also beat processes of other containers. */
export const OOM_SCORE = '800'

/** One that SIGKILL does not end hangs in the kernel; waiting longer would not help. */
const STOP_MS = 1000

/** How a process ended. `error` says why it never ran. */
export interface WorkerExit {
  code: number | null
  signal: NodeJS.Signals | null
  error?: string
}

export type GroupSignal = 'SIGTERM' | 'SIGKILL'

/** What is to be started. */
export interface GroupSpec {
  command: string
  args: string[]
  /** All that it is given, but for HOME and TMPDIR, which are its folder. */
  env: Record<string, string>
  cwd: string
}

/** Our ends of what connects us to a process. */
export interface GroupStreams {
  /** Our end of the socketpair. */
  socket: Socket
  stdout: Socket
  stderr: Socket
}

/** A process that leads a group, in the process that is its parent. */
export interface Group {
  /** Undefined when it does not run: `ended` says why. */
  readonly running: { pid: number; streams: GroupStreams } | undefined
  /** Resolves when the process has ended and its group is killed. */
  readonly ended: Promise<WorkerExit>
  /** Signals the process and all that it has started. Harmless when they are gone. */
  signal(signal: GroupSignal): void
}

export interface ProcessGroups {
  /** Never throws. */
  start(spec: GroupSpec): Group
  /** Kills what is left, and returns when nothing that watches over it runs any more. */
  stop(): Promise<void>
}

/**
 * Starts processes that each lead a group of their own, so that a kill takes what it has started and Ctrl-C does not reach
 * it, and that inherit nothing but standard output, standard error and an end of a socketpair. Only the parent knows for
 * how long the number of a group is ours, so whoever wants it signalled asks here. `dir` holds their folders; see `createGuard`.
 */
export function createProcessGroups(
  deps: { onUnguarded(reason: string): void },
  { dir }: { dir: string },
): ProcessGroups {
  const guard = createGuard(deps, { dir })
  const groups = new Set<Group>()

  return {
    start(spec) {
      try {
        const group = watch(startProcess(spec))
        if (!group.running) return group
        const { pid } = group.running
        groups.add(group)
        void group.ended.then(() => {
          groups.delete(group)
          guard.remove(pid)
        })
        guard.add(pid)
        return group
      } catch (error) {
        return failedGroup(error instanceof Error ? error.message : String(error))
      }
    },
    async stop() {
      const left = [...groups]
      for (const group of left) group.signal('SIGKILL')
      await settlesWithin(Promise.all(left.map(({ ended }) => ended)), STOP_MS)
      await guard.stop()
    },
  }
}

function startProcess({ command, args, env, cwd }: GroupSpec): ChildProcess {
  const child = spawn(command, args, {
    cwd,
    // Nothing of ours is passed on: the environment of a gateway is full of secrets.
    env: { ...env, HOME: cwd, TMPDIR: cwd },
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    detached: true,
    windowsHide: true,
  })
  // Where `choom` is there it has done so already, and this is refused where the process is closed to its own user.
  if (child.pid !== undefined) writeOomScore(child.pid)
  return child
}

function writeOomScore(pid: number) {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, OOM_SCORE)
  } catch {}
}

function watch(child: ChildProcess): Group {
  const { pid } = child
  let isGone = pid === undefined
  const ended = new Promise<WorkerExit>((resolve) => {
    // It also says of a signal that it could not be sent, and nobody must be without a listener for it.
    child.on('error', (error) => pid === undefined && resolve({ code: null, signal: null, error: error.message }))
    child.once('exit', (code, signal) => {
      // What it started is in its group, and keeps the group's number from being given to others until this kill.
      if (!isGone) signalGroup(child, 'SIGKILL')
      isGone = true
      resolve({ code, signal })
    })
  })
  return {
    running: pid === undefined ? undefined : { pid, streams: streamsOf(child) },
    ended,
    signal(signal) {
      if (!isGone) signalGroup(child, signal)
    },
  }
}

function streamsOf(child: ChildProcess): GroupStreams {
  const [, stdout, stderr] = child.stdio
  return { socket: child.stdio[GATEWAY_FD] as Socket, stdout: stdout as Socket, stderr: stderr as Socket }
}

function signalGroup(child: ChildProcess, signal: GroupSignal) {
  try {
    process.kill(-child.pid!, signal)
  } catch {
    child.kill(signal)
  }
}

function failedGroup(error: string): Group {
  return { running: undefined, ended: Promise.resolve({ code: null, signal: null, error }), signal() {} }
}
