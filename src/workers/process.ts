import { errorLine } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import { settlesWithin } from '../lib/settles-within.ts'
import type { WorkerExit } from './groups.ts'
import type { LaunchedProcess, StartedProcess } from './launched.ts'
import { logOutput } from './output.ts'
import {
  addUsage,
  COMMAND_BYTES_MAX,
  type Command,
  NO_USAGE,
  type Report,
  type StepRecord,
  type TurnCommand,
} from './protocol.ts'
import { serveWorker, type WorkerLink } from './transport.ts'
import { type LossCode, lostTurn, type TurnEnd, type TurnHandlers, type WorkerRequests } from './turn.ts'
import { unlessAborted } from './wait.ts'

/** What an aborted worker may take to end its turn itself, so that its tools can tidy up and its calls close. */
const CANCEL_MS = 200
/** What a worker that was asked to leave may take. */
const LEAVE_MS = 250
/** Between SIGTERM and SIGKILL. */
const KILL_GRACE_MS = 2000
/** A process that SIGKILL does not end hangs in the kernel; waiting longer would not help. */
const CONFIRM_MS = 10_000

/** One worker process. `createWorkerProcess` says what it goes through. */
export interface WorkerProcess {
  /** Undefined until it runs. */
  readonly pid: number | undefined
  /** True once the worker could take a turn, false when it ended before. */
  readonly ready: Promise<boolean>
  /** Why it ended before it was ready; undefined when it was ready, or was not wanted any more. */
  startFault(): string | undefined
  /** Resolves when the process is gone. */
  readonly exited: Promise<void>
  /** Runs one turn; one at a time, on a ready worker. Never rejects; resolves when the worker is idle again, or gone. */
  runTurn(args: TurnArgs): Promise<TurnEnd>
  /** Ends the process and thereby a running turn, which is lost for this reason. */
  fail(code: LossCode): void
  isReady(): boolean
  /** It is being ended, or has ended; no turn may be given to it. */
  isLeaving(): boolean
  /** Asks the worker to leave, then kills it. Resolves when it is gone. A running turn is lost for the reason `code`. */
  stop(how?: { graceMs: number; code: LossCode }): Promise<void>
}

export interface TurnArgs {
  turn: TurnCommand
  on: TurnHandlers
  /** Ids for the lines of the log that are about this turn. */
  about?: Record<string, string> | undefined
  /** When it aborts, nothing more of the turn is let through, and its worker is ended. */
  signal: AbortSignal
}

export interface WorkerProcessOptions {
  /** Time from the launch, whoever it waits for, to ready. */
  startMs: number
  /** Time without any sign of a worker during a turn. */
  silenceMs: number
}

interface ActiveTurn extends TurnArgs {
  /** Of the steps saved so far. */
  usage: TurnEnd['usage']
  /** Set when it has ended. */
  end: TurnEnd | undefined
  ended: Promise<void>
  settle(end: TurnEnd): void
  silence: NodeJS.Timeout
}

/**
 * One worker from launch to exit.
 *
 *   starting ──ready──► idle ──runTurn──► busy ──end──► idle
 *      │ startMs         │ stop            │ aborted, silent, out of memory, broken connection
 *      ▼                 ▼                 ▼
 *   ending: exit command (if asked politely) ► SIGTERM ► SIGKILL to the group ──► gone
 *
 * A turn settles exactly once: with the worker's own `end`, or, after the exit was confirmed, as lost or cancelled.
 */
export function createWorkerProcess(
  deps: { launched: LaunchedProcess; requests: WorkerRequests; log: Logger },
  options: WorkerProcessOptions,
): WorkerProcess {
  const { launched } = deps
  const ready = Promise.withResolvers<boolean>()
  let log = deps.log
  let pid: number | undefined
  let link: WorkerLink | undefined
  let active: ActiveTurn | undefined
  let failure: LossCode | undefined
  let ending: Promise<void> | undefined
  let isReady = false
  let gone = false
  let isUnwanted = false
  let startFault: string | undefined
  const startTimer = setTimeout(() => fail('worker_start_failed'), options.startMs)
  void launched.started.then((process) => process && onStarted(process))
  const exited = launched.exited.then(onExit)

  function onStarted({ socket, stdout, stderr, ...process }: StartedProcess) {
    pid = process.pid
    log = deps.log.child({ worker: pid })
    link = serveWorker(socket, linkDeps())
    logOutput(stdout, { log, level: 'debug', about: () => active?.about })
    logOutput(stderr, { log, level: 'warn', about: () => active?.about, onLine: noteHeapEnd })
  }

  function linkDeps() {
    return {
      log,
      requests: { ...deps.requests, saveStep },
      currentRun() {
        if (!active || active.signal.aborted) return undefined
        const { runId, fence, model } = active.turn
        return { runId, fence, provider: model.provider, about: active.about ?? { runId } }
      },
      onReport,
      onSign: () => active?.silence.refresh(),
      hasRoom: () => active?.on.hasRoom?.() ?? true,
      onBroken(reason: string) {
        if (ending) return
        log.warn({ ...active?.about, reason }, 'worker broke its connection')
        fail('worker_crashed')
      },
    }
  }

  async function saveStep(step: StepRecord) {
    const turn = active
    const outcome = await deps.requests.saveStep(step)
    if (turn && outcome === 'saved') turn.usage = addUsage(turn.usage, step.usage)
    return outcome
  }

  function onReport(report: Report) {
    if (report.type === 'ready') {
      clearTimeout(startTimer)
      isReady = true
      return ready.resolve(true)
    }
    const current = active
    if (!current || report.runId !== current.turn.runId || report.fence !== current.turn.fence) return
    current.silence.refresh()
    if (report.type === 'end') {
      const { status, usage, error } = report
      return current.settle(error ? { status, usage, error } : { status, usage })
    }
    if (current.signal.aborted) return
    try {
      tell(current.on, report)
    } catch (error) {
      log.error({ ...current.about, err: errorLine(error) }, 'a turn handler threw')
    }
  }

  /** Its connection breaks at the same time, so this may come second, and says more. */
  function noteHeapEnd(line: string) {
    if (!line.includes('JavaScript heap out of memory')) return
    if (failure === undefined || failure === 'worker_crashed') failure = 'worker_out_of_memory'
  }

  function onExit(exit: WorkerExit) {
    gone = true
    if (!isReady && !isUnwanted) startFault = describeStart(exit, failure)
    clearTimeout(startTimer)
    ready.resolve(false)
    log[ending ? 'debug' : 'warn']({ ...active?.about, ...exit, failure }, 'worker ended')
    active?.settle(lostTurn(failure ?? 'worker_crashed', active.usage))
  }

  function fail(code: LossCode) {
    failure ??= code
    // The exit settles the turn; this is for a process that nothing can end.
    void terminate({ politely: false }).then(() => active?.settle(lostTurn(code, active.usage)))
  }

  function terminate(how: { politely: boolean; graceMs?: number }): Promise<void> {
    ending ??= endProcess({ launched, exited, link, log }, how)
    return ending
  }

  function beginTurn(args: TurnArgs): ActiveTurn {
    const { promise: ended, resolve } = Promise.withResolvers<void>()
    const current: ActiveTurn = {
      ...args,
      usage: NO_USAGE,
      end: undefined,
      ended,
      silence: setTimeout(() => fail('worker_silent'), options.silenceMs),
      settle(end) {
        if (current.end) return
        current.end = end
        clearTimeout(current.silence)
        if (active === current) active = undefined
        link?.endRequests()
        resolve()
      },
    }
    active = current
    return current
  }

  async function cancelTurn(current: ActiveTurn): Promise<TurnEnd> {
    link?.send(encode({ type: 'cancel', runId: current.turn.runId }))
    await settlesWithin(current.ended, CANCEL_MS)
    await terminate({ politely: false })
    current.settle({ status: 'cancelled', usage: current.usage })
    return { status: 'cancelled', usage: current.end?.usage ?? current.usage }
  }

  return {
    get pid() {
      return pid
    },
    ready: ready.promise,
    startFault: () => startFault,
    exited,
    fail,
    isReady: () => isReady && !gone,
    isLeaving: () => ending !== undefined || gone,
    stop(how) {
      isUnwanted ||= ending === undefined
      if (how) failure ??= how.code
      return terminate({ politely: true, ...how })
    },
    async runTurn(args) {
      const line = encode(args.turn)
      if (Buffer.byteLength(line) > COMMAND_BYTES_MAX) return tooLarge()
      const current = beginTurn(args)
      if (!link?.send(line)) fail('worker_crashed')
      await unlessAborted(current.ended, current.signal)
      return current.end ?? cancelTurn(current)
    },
  }
}

function describeStart({ error, code, signal }: WorkerExit, failure: LossCode | undefined): string {
  if (error !== undefined) return error
  if (failure === 'worker_start_failed') return 'a worker was not ready in time'
  return `a worker ended with ${signal ?? code} before it was ready`
}

function encode(command: Command): string {
  return JSON.stringify(command)
}

function tell(on: TurnHandlers, report: Extract<Report, { type: 'delta' | 'tool' | 'beat' }>) {
  if (report.type === 'delta') on.onDelta(report.text)
  else if (report.type === 'tool') on.onTool({ name: report.name, phase: report.phase, summary: report.summary })
  else on.onBeat()
}

interface Ending {
  launched: LaunchedProcess
  exited: Promise<void>
  link: WorkerLink | undefined
  log: Logger
}

async function endProcess(
  { launched, exited, link, log }: Ending,
  { politely, graceMs = KILL_GRACE_MS }: { politely: boolean; graceMs?: number },
) {
  if (politely && link?.send(encode({ type: 'exit' })) && (await settlesWithin(exited, LEAVE_MS))) return
  launched.signal('SIGTERM')
  if (await settlesWithin(exited, graceMs)) return
  launched.signal('SIGKILL')
  if (!(await settlesWithin(exited, CONFIRM_MS))) log.error('worker survives SIGKILL')
}

function tooLarge(): TurnEnd {
  const message = 'The conversation with its attachments is too large for one turn.'
  return { status: 'failed', usage: NO_USAGE, error: { code: 'turn_too_large', message, retryable: false } }
}
