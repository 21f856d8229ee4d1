import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeEach } from 'vitest'

/** The build under test; `LOBU_TEST_DIST` names another than this checkout's. */
export const DIST = process.env.LOBU_TEST_DIST || fileURLToPath(new URL('../../dist', import.meta.url))
/** Processes are found by walking /proc, which is Linux's. Elsewhere none are seen. */
const HAS_PROC = existsSync('/proc/self/stat')
/** Lines of one process that a failed test shows. */
const SHOWN_LINES = 60
/** What makes the program end in order. */
const STOP_SIGNALS = ['SIGTERM', 'SIGINT'] as const

/** One line of the gateway's log. */
export type LogLine = Record<string, unknown> & { level?: string; msg?: string }

export interface Exit {
  code: number | null
  signal: NodeJS.Signals | null
}

/** `build`: the folder of another build than the one under test. `node`: what starts it, by default the Node of the tests. */
export interface BuildChoice {
  build?: string | undefined
  node?: string[]
}

/** A process of the built program. */
export interface Program {
  readonly pid: number
  readonly exited: Promise<Exit>
  hasExited(): boolean
  /** It is over, and nobody who uses this object wanted that: by a signal that was not sent here, unasked, or with a fault. */
  endedByItself(): boolean
  /** Standard output and standard error so far. */
  stdout(): string
  stderr(): string
  /** The JSON lines among the output. */
  lines(): LogLine[]
  /** The first line with this message, now or later. Rejects when the process ends before. */
  logged(message: string): Promise<LogLine>
  signal(name: NodeJS.Signals): void
  /** Its living worker processes. */
  workers(): number[]
  /** The living process that starts its workers. */
  spawner(): number | undefined
  /** Ends it by SIGKILL where it still runs, waits until nothing that it started is left, and removes its folder. */
  destroy(): Promise<void>
  /** The end of its log, for a person who looks at a failed test. */
  report(): string
}

/** A program that serves. */
export interface Gateway extends Program {
  readonly url: string
  readonly port: number
  /** Resolves when `/health/ready` says so; rejects when it ends before. */
  ready(): Promise<void>
}

/**
 * Starts `lobu <command>` with exactly this environment and a temporary folder of its own, by which everything that it
 * starts can be found again, whoever its parent is by then.
 */
export async function startProgram(
  command: string[],
  env: Record<string, string>,
  { build = DIST, node = [process.execPath] }: BuildChoice = {},
): Promise<Program> {
  const dir = await mkdtemp(path.join(tmpdir(), 'lobu-e2e-'))
  const [program, ...before] = node
  const child = spawn(program!, [...before, path.join(build, 'main.js'), ...command], {
    cwd: dir,
    env: { PATH: process.env.PATH ?? '', TMPDIR: dir, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  return superviseProgram(child, { dir, name: `lobu ${command.join(' ')}` })
}

/** Runs a command to its end. */
export async function runProgram(
  command: string[],
  env: Record<string, string>,
  choice?: BuildChoice,
): Promise<Exit & { stdout: string; stderr: string }> {
  const program = await startProgram(command, env, choice)
  try {
    const exit = await program.exited
    return { ...exit, stdout: program.stdout(), stderr: program.stderr() }
  } finally {
    await program.destroy()
  }
}

/** At the top of a file whose tests must find worker processes. Where they cannot be seen, its tests are skipped. */
export function requireProc(): void {
  beforeEach(({ skip }) => {
    if (!HAS_PROC) skip('worker processes are found in /proc')
  })
}

/** Starts a gateway on a free port of the loopback interface. Resolves when it listens; see `ready` for more. */
export async function startGateway(env: Record<string, string>, choice?: BuildChoice): Promise<Gateway> {
  const program = await startProgram(['serve'], { PORT: '0', HOST: '127.0.0.1', LOG_PRETTY: '0', ...env }, choice)
  try {
    const port = Number((await program.logged('listening')).port)
    const url = `http://127.0.0.1:${port}`
    const isReady = () => {
      if (program.hasExited()) throw new Error(`${url} ended before it was ready`)
      return fetch(`${url}/health/ready`).then(
        async (response) => (await response.text()) !== '' && response.ok,
        () => false,
      )
    }
    return { ...program, port, url, ready: async () => void (await until(isReady, `${url} is ready`)) }
  } catch (error) {
    const report = program.report()
    await program.destroy()
    throw new Error(`${error instanceof Error ? error.message : error}\n${report}`)
  }
}

/**
 * Resolves when `check` holds; what it returned comes back. Rejects, naming `what` was waited for, after `withinMs`,
 * which is no promise of the product but the point at which a test gives up, also on a `check` that never settles.
 */
export async function until<T>(check: () => T | Promise<T>, what: string, withinMs = 90_000): Promise<NonNullable<T>> {
  let isOver = false
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      isOver = true
      reject(new Error(`waited ${withinMs / 1000} s in vain until ${what}`))
    }, withinMs)
  })
  async function ask(): Promise<NonNullable<T>> {
    while (!isOver) {
      const value = await check()
      if (value) return value as NonNullable<T>
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    return late
  }
  return await Promise.race([ask(), late]).finally(() => clearTimeout(timer))
}

/** Watches over a program that the caller has started, with `dir` as its TMPDIR. */
export function superviseProgram(child: ChildProcess, { dir, name }: { dir: string; name: string }): Program {
  const { pid } = child
  if (pid === undefined) throw new Error(`could not start ${name}`)
  let stdout = ''
  let stderr = ''
  let exit: Exit | undefined
  const sent = new Set<NodeJS.Signals>()
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  // `close` comes after `exit`, when all output has been read.
  const exited = once(child, 'close').then(([code, signal]) => {
    exit = { code, signal }
    return exit
  })
  const lines = () => stdout.split('\n').flatMap(parseLine)
  const program: Program = {
    pid,
    exited,
    hasExited: () => exit !== undefined,
    stdout: () => stdout,
    stderr: () => stderr,
    lines,
    logged: (message) =>
      until(() => {
        const line = lines().find((one) => one.msg === message)
        if (!line && exit) throw new Error(`${name} ended before it logged "${message}"`)
        return line
      }, `${name} logs "${message}"`),
    endedByItself() {
      if (!exit) return false
      if (exit.signal) return !sent.has(exit.signal)
      return exit.code !== 0 || !STOP_SIGNALS.some((signal) => sent.has(signal))
    },
    signal(signal) {
      if (exit) return
      sent.add(signal)
      child.kill(signal)
    },
    workers() {
      const parents = exit ? [] : [pid, ...spawnersOf(pid)]
      return parents.flatMap(childrenOf).filter((one) => argumentsOf(one).includes('worker/main.js'))
    },
    spawner: () => (exit ? undefined : spawnersOf(pid)[0]),
    async destroy() {
      // Frozen first, so that it starts nothing while it dies.
      program.signal('SIGSTOP')
      program.signal('SIGKILL')
      await exited
      try {
        await until(() => processesOf(dir).length === 0, `nothing is left of ${name} (${processesOf(dir)})`)
      } finally {
        // A test that fails for what stayed behind must not leave it to the machine.
        for (const left of processesOf(dir)) killProcess(left)
      }
      await rm(dir, { recursive: true, force: true, maxRetries: 3 })
    },
    report() {
      const lines = [...stdout.split('\n'), ...stderr.split('\n')].filter((line) => line !== '')
      // What went wrong is often long before the end, behind the noise of a busy replica.
      const warnings = lines.slice(0, -SHOWN_LINES).filter(isWarning).slice(-SHOWN_LINES)
      const shown = [...warnings, ...lines.slice(-SHOWN_LINES)]
      return `--- ${name} (${pid})${exit ? `, ended with ${exit.signal ?? exit.code}` : ''}\n${shown.join('\n')}\n`
    },
  }
  return program
}

const isWarning = (line: string) => /^{"level":"(warn|error|fatal)"/.test(line)

function parseLine(line: string): LogLine[] {
  if (!line.startsWith('{')) return []
  try {
    return [JSON.parse(line)]
  } catch {
    return []
  }
}

/** Living processes that carry the folder in their arguments or environment, or are in it: a program, its spawner, its workers, their guard. */
function processesOf(dir: string): number[] {
  return allProcesses().filter((pid) => pid !== process.pid && isAlive(pid) && mentions(pid, dir))
}

/** SIGKILL. One that has just ended by itself, as idle workers do, is as good. */
export function killProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** Whether this process runs; a zombie does not. */
export function isAlive(pid: number): boolean {
  const stat = readProc(pid, 'stat')
  return stat !== '' && !/^\s*[ZX]/.test(stat.slice(stat.lastIndexOf(')') + 1))
}

const spawnersOf = (pid: number) => childrenOf(pid).filter((one) => argumentsOf(one).includes('/spawner.js'))

function childrenOf(parent: number): number[] {
  return allProcesses().filter((pid) => {
    const stat = readProc(pid, 'stat')
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === parent && isAlive(pid)
  })
}

/** All that descends from a process, zombies too, parents first. */
export function processesBelow(root: number): { pid: number; state: string; command: string }[] {
  const all = allProcesses().flatMap((pid) => {
    const stat = readProc(pid, 'stat')
    const [state = '', parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return stat === ''
      ? []
      : [{ pid, state, parent: Number(parent), command: stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')')) }]
  })
  const found = new Set([root])
  const below: { pid: number; state: string; command: string }[] = []
  for (let size = -1; size !== below.length; ) {
    size = below.length
    for (const { parent, ...one } of all) {
      if (!found.has(parent) || found.has(one.pid)) continue
      found.add(one.pid)
      below.push(one)
    }
  }
  return below
}

function allProcesses(): number[] {
  if (!HAS_PROC) return []
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
}

function mentions(pid: number, dir: string): boolean {
  return argumentsOf(pid).includes(dir) || readProc(pid, 'environ').includes(dir) || folderOf(pid).includes(dir)
}

/** Where a process is. Empty when it is gone, or another user's. */
function folderOf(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/cwd`)
  } catch {
    return ''
  }
}

function argumentsOf(pid: number): string {
  return readProc(pid, 'cmdline').replaceAll('\0', ' ')
}

/** Empty when the process is gone, or another user's. */
function readProc(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8')
  } catch {
    return ''
  }
}
