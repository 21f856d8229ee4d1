import { availableParallelism } from 'node:os'
import type { Logger } from '../lib/logger.ts'
import type { Service } from '../lib/service.ts'
import type { Isolation, Launcher } from './launcher.ts'
import { defaultBusyMax, defaultWorkersMax, residentMb } from './memory.ts'
import { createWorkerProcess, type WorkerProcess } from './process.ts'
import { NO_USAGE, type TurnCommand } from './protocol.ts'
import { createSlots } from './slots.ts'
import { createStartWatch } from './start-watch.ts'
import { lostTurn, type TurnEnd, type TurnHandlers, type WorkerRequests } from './turn.ts'
import { unlessAborted } from './wait.ts'

export type { TurnEnd, TurnHandlers, WorkerRequests } from './turn.ts'

const WATCH_MS = 1000
/** Between SIGTERM and SIGKILL when the gateway stops: its own time is short. */
const STOP_GRACE_MS = 500
/** A new worker takes a core for a tenth of a second; the turn that took the last one has begun to stream by then. */
const REFILL_DELAY_MS = 50
/** After a warm worker failed to start, the next try waits this long; turns do not wait for it. */
const REFILL_AFTER_FAILURE_MS = 5000

/** The worker processes of this replica: who runs which conversation, who is idle, and who comes next. */
export interface WorkerPool extends Service {
  /**
   * Runs one turn in the conversation's worker, or adopts a warm one, or starts one. Never rejects for trouble with
   * workers: see `TurnEnd` for how it ends then. Aborting `signal` cancels: from then on no output is let through, and
   * it resolves when the worker's process is gone. A turn of this conversation that still runs is ended first.
   */
  runTurn(args: {
    key: string
    turn: TurnCommand
    on: TurnHandlers
    /** Ids for the lines of the log that are about this turn. */
    about?: Record<string, string>
    signal: AbortSignal
  }): Promise<TurnEnd>
  /** Turns that could start now; none while no worker can be started. */
  free(): number
  /** A worker of this conversation is here. */
  has(key: string): boolean
  /** Stops the idle worker of a conversation, such as one that was deleted. */
  forget(key: string): void
  snapshot(): PoolSnapshot
}

export interface PoolSnapshot {
  workers: number
  busy: number
  warm: number
  max: number
  /** Turns at once, by processes and by cores. */
  busyMax: number
  isolation: Isolation
  /** Why no worker can be started; null as far as is known. */
  fault: string | null
  /** The first warm worker is not there yet. */
  starting: boolean
}

export interface WorkerPoolOptions {
  /** Processes at most. Undefined: what the memory allows. */
  max?: number | undefined
  /** Turns at once. Undefined: 25 for each core. */
  busyMax?: number | undefined
  /** Started workers that wait for a conversation. */
  warm: number
  idleMs: number
  startMs: number
  silenceMs: number
  /** Resident memory at which a busy worker is killed. */
  memoryMb: number
}

/** One process of the pool. */
interface Worker {
  process: WorkerProcess
  /** The conversation it belongs to, once it has one. */
  key: string | undefined
  busy: boolean
  /** Since when it is idle. */
  idleAt: number
  idleTimer: NodeJS.Timeout | undefined
}

/**
 * Keys are "<organization>/<conversation>". A worker serves one conversation for its whole life, so nothing of one
 * can reach another.
 *
 *   launch ─► warm ─adopted─► busy ◄─► idle ─ idleMs, forget, room needed ─► gone
 *
 * `max` bounds processes, those that are still ending included; `busyMax` bounds turns. When all is full, a turn waits
 * for its slot, then takes the place of the conversation that has been idle longest.
 */
export function createWorkerPool(
  deps: { launcher: Launcher; requests: WorkerRequests; log: Logger },
  options: WorkerPoolOptions,
): WorkerPool {
  const { launcher, log } = deps
  const max = options.max ?? defaultWorkersMax()
  const turns = createSlots(Math.min(options.busyMax ?? defaultBusyMax(), max))
  const starts = createSlots(availableParallelism())
  const workers = new Set<Worker>()
  const byKey = new Map<string, Worker>()
  const watchStart = createStartWatch({ log })
  let isStopping = false
  let watch: NodeJS.Timeout | undefined
  let refill: NodeJS.Timeout | undefined
  let refillNotBefore = 0
  let stopped: Promise<void> | undefined

  const spares = () => [...workers].filter((worker) => worker.key === undefined && !worker.process.isLeaving())

  /** Enters a new process into the books at once, so that `max` holds whatever is awaited meanwhile. */
  function launch(key: string | undefined): Worker {
    const process = createWorkerProcess({ launched: launcher.launch(), requests: deps.requests, log }, options)
    const worker: Worker = { process, key, busy: false, idleAt: 0, idleTimer: undefined }
    workers.add(worker)
    if (key !== undefined) byKey.set(key, worker)
    void process.ready.then((isReady) => noteStart(process, isReady))
    void process.exited.then(() => {
      clearTimeout(worker.idleTimer)
      workers.delete(worker)
      release(worker)
      fillWarm()
    })
    return worker
  }

  function noteStart(process: WorkerProcess, isReady: boolean) {
    const fault = process.startFault()
    if (fault !== undefined) refillNotBefore = performance.now() + REFILL_AFTER_FAILURE_MS
    watchStart.note(isReady ? 'ready' : fault === undefined ? undefined : { fault })
    fillWarm()
  }

  /** The conversation no longer has this worker; it may get another one. */
  function release(worker: Worker) {
    if (worker.key !== undefined && byKey.get(worker.key) === worker) byKey.delete(worker.key)
  }

  function retire(worker: Worker): Promise<void> {
    release(worker)
    return worker.process.stop()
  }

  /** While none can be started there is always one that is tried, so that it shows when they can again. */
  const sparesWanted = () => Math.max(options.warm, watchStart.fault() === null ? 0 : 1)
  const wantsSpare = () => !isStopping && spares().length < sparesWanted() && workers.size < max

  /** Keeps `warm` workers ready for conversations to come. Turns go first: it waits a little, and only uses what is free. */
  function fillWarm() {
    if (refill || !wantsSpare()) return
    const delayMs = Math.max(REFILL_DELAY_MS, refillNotBefore - performance.now())
    refill = setTimeout(async () => {
      refill = undefined
      if (!wantsSpare()) return
      if (!starts.tryTake()) return fillWarm()
      await launch(undefined).process.ready
      starts.release()
      fillWarm()
    }, delayMs)
  }

  /** A worker for this conversation, ready and marked busy; undefined when there can be none. */
  async function acquire(key: string, signal: AbortSignal): Promise<Worker | undefined> {
    while (!signal.aborted && !isStopping) {
      const own = byKey.get(key)
      if (own && !own.busy && !own.process.isLeaving()) return occupy(own, key)
      const spare = own ? undefined : bestSpare()
      if (spare) return readied(occupy(spare, key), signal)
      // A turn that this replica no longer holds may still run here: two of one conversation must never.
      if (own) await retire(own)
      else if (workers.size >= max) await makeRoom(signal)
      else if (await starts.take(signal)) {
        const isNeeded = !isStopping && !byKey.has(key) && workers.size < max
        const worker = isNeeded ? readied(occupy(launch(key), key), signal) : undefined
        await worker
        starts.release()
        if (isNeeded) return worker
      }
    }
    return undefined
  }

  function occupy(worker: Worker, key: string): Worker {
    clearTimeout(worker.idleTimer)
    worker.key = key
    worker.busy = true
    byKey.set(key, worker)
    fillWarm()
    return worker
  }

  /** A start that hangs must not hold up who cancels, nor the gateway's own end. */
  async function readied(worker: Worker, signal: AbortSignal): Promise<Worker | undefined> {
    if (await unlessAborted(worker.process.ready, signal)) return worker
    await retire(worker)
    return undefined
  }

  /** One that is ready, or else the one that has been starting longest. */
  function bestSpare(): Worker | undefined {
    const candidates = spares()
    return candidates.find((worker) => worker.process.isReady()) ?? candidates[0]
  }

  /** Ends the worker that has been idle longest, or waits for one that is ending. */
  async function makeRoom(signal: AbortSignal) {
    const idle = [...workers].filter((worker) => !worker.busy && !worker.process.isLeaving())
    const oldest = idle.reduce<Worker | undefined>((a, b) => (a && a.idleAt <= b.idleAt ? a : b), undefined)
    if (oldest) await retire(oldest)
    else await unlessAborted(Promise.race([...workers].map((worker) => worker.process.exited)), signal)
  }

  function rest(worker: Worker) {
    worker.busy = false
    worker.idleAt = performance.now()
    if (!worker.process.isLeaving()) worker.idleTimer = setTimeout(() => retire(worker), options.idleMs)
  }

  async function watchMemory() {
    for (const worker of workers) {
      const { pid } = worker.process
      if (!worker.busy || pid === undefined) continue
      const residentMiB = await residentMb(pid)
      if (residentMiB === undefined || residentMiB <= options.memoryMb || !workers.has(worker)) continue
      log.warn({ worker: pid, residentMiB: Math.round(residentMiB), key: worker.key }, 'worker uses too much memory')
      worker.process.fail('worker_out_of_memory')
    }
  }

  async function endAll() {
    turns.close()
    starts.close()
    clearInterval(watch)
    clearTimeout(refill)
    const how = { graceMs: STOP_GRACE_MS, code: 'gateway_stopping' as const }
    await Promise.all([...workers].map((worker) => worker.process.stop(how)))
    await launcher.stop()
  }

  function notRun(signal: AbortSignal): TurnEnd {
    if (signal.aborted) return { status: 'cancelled', usage: NO_USAGE }
    return lostTurn(isStopping ? 'gateway_stopping' : 'worker_start_failed', NO_USAGE)
  }

  return {
    name: 'workers',
    async start() {
      if (isStopping) return
      await launcher.start()
      watch ??= setInterval(watchMemory, WATCH_MS)
      fillWarm()
    },
    stop() {
      isStopping = true
      stopped ??= endAll()
      return stopped
    },
    async runTurn({ key, turn, on, about, signal }) {
      if (!(await turns.take(signal))) return notRun(signal)
      try {
        const worker = await acquire(key, signal)
        if (!worker) return notRun(signal)
        const end = signal.aborted ? notRun(signal) : await worker.process.runTurn({ turn, on, about, signal })
        rest(worker)
        return end
      } finally {
        turns.release()
      }
    },
    free: () => (isStopping || watchStart.fault() !== null ? 0 : Math.max(0, turns.max - turns.wanted())),
    has: (key) => byKey.has(key),
    forget(key) {
      const worker = byKey.get(key)
      if (worker && !worker.busy) void retire(worker)
    },
    snapshot: () => ({
      workers: workers.size,
      busy: [...workers].filter((worker) => worker.busy).length,
      warm: spares().filter((worker) => worker.process.isReady()).length,
      max,
      busyMax: turns.max,
      isolation: launcher.isolation,
      fault: watchStart.fault(),
      starting: options.warm > 0 && !watchStart.isProven() && watchStart.fault() === null,
    }),
  }
}
