import type { Sql } from '../db/client.ts'
import type { Budgets } from '../domain/limits/budget.ts'
import { noteWorker } from '../domain/runs/begin.ts'
import { type EndOfRun, endRun } from '../domain/runs/end.ts'
import { takeSteerMessages } from '../domain/runs/steer.ts'
import type { ResolveModel } from '../domain/secrets/choose-model.ts'
import type { Signals } from '../domain/signals.ts'
import type { CostOf } from '../domain/usage/prices.ts'
import { backoffMs } from '../lib/backoff.ts'
import { AppError, errorLine } from '../lib/errors.ts'
import type { Logger } from '../lib/logger.ts'
import { createLoop, type Loop } from '../lib/loop.ts'
import { retry } from '../lib/retry.ts'
import { settlesWithin } from '../lib/settles-within.ts'
import { traceIdOf } from '../lib/traceparent.ts'
import { claimCappedRuns } from '../queue/capped-runs.ts'
import { type ClaimedRun, claimPreferredRuns, claimReadyRuns, releaseRun, renewRuns } from '../queue/runs.ts'
import type { LabelsOf } from '../telemetry/definitions.ts'
import { type Metrics, NO_METRICS } from '../telemetry/metrics.ts'
import { NO_TRACER, type Tracer } from '../telemetry/tracer.ts'
import { isDatabaseAway, outlastOutage } from './outlast-outage.ts'
import type { WorkerPool } from './pool.ts'
import type { ReplyWriter, RunReplies } from './replies.ts'
import { beginTurn, type TurnInProgress, toCommand } from './runner-turn.ts'
import type { RunRef, TurnEnd, WorkerRequests } from './turn.ts'
import { COMPLETED, FAILURES, failedStep, failure } from './turn-ends.ts'
import { createTurnTrace, type ModelCallEnd, type TurnTrace, withTrace } from './turn-trace.ts'

export interface Runner {
  /** The loops of it: claiming, and keeping what was claimed. */
  readonly loops: Loop[]
  /** Takes a slot for a run that is about to be inserted as claimed by this replica; false when there is none. */
  reserve(): boolean
  /** Gives the slot back, or fills it. */
  settle(run: ClaimedRun | null): void
  /** Something may be claimable. */
  ring(): void
  /** Stops working on a run that was ended elsewhere. */
  stopRun(runId: string): void
  /** Stops the idle worker of a conversation that was ended. */
  forget(key: string): void
  /** What the pool passes on from the workers. */
  readonly requests: Pick<WorkerRequests, 'saveStep' | 'takeSteer'>
  /** Whose run this is; undefined when this replica does not hold it under that fence, or has given it up. */
  ownerOf(run: RunRef): RunOwner | undefined
  /** A model call of this run begins; `traceparent` is what its worker sent along. What comes back is told how it ends. */
  traceModelCall(run: RunRef, traceparent: string | undefined): (end: ModelCallEnd) => void
  active(): number
  start(): Promise<void>
  /** Claims nothing more; lets what runs finish for `graceMs` or until `signal`, then hands it over to the other replicas. */
  drain(graceMs: number, signal?: AbortSignal): Promise<void>
}

/** In whose name a run acts. */
export interface RunOwner {
  organizationId: string
  agentId: string
}

export interface RunnerOptions {
  replica: string
  leaseMs: number
  pollMs: number
  attemptsMax: number
  runMsMax: number
  /** Characters that one turn may write. */
  textCharsMax: number
  organizationRunsMax: number
  limits: { stepsMax: number; outputTokensMax: number }
}

export interface RunnerDeps {
  sql: Sql
  log: Logger
  signals: Signals
  pool: WorkerPool
  replies: ReplyWriter
  budgets: Budgets
  costOf: CostOf
  metrics?: Metrics
  tracer?: Tracer
  resolveModel: ResolveModel
}

/** What became of one attempt. */
type Outcome = LabelsOf<'lobu_run_attempts_total'>['outcome']

/** Why this replica stops working on a run before its worker is done. */
type StopReason = 'ended elsewhere' | 'lease lost' | 'handed over' | 'timeout' | 'budget exhausted' | 'too long'

type ClaimArgs = Parameters<typeof claimPreferredRuns>[1]

interface Active {
  run: ClaimedRun
  trace: TurnTrace
  /** Its ids, for the lines of the log that are about it. */
  about: Record<string, string>
  log: Logger
  abort: AbortController
  turn: TurnInProgress | null
  reason: StopReason | null
  done: Promise<void>
}

/** Runs taken in one claim at most. */
const CLAIM_MAX = 50
/** With so many slots to fill the three kinds of claims go to the database at once, and cost one round trip instead of three. */
const TOGETHER_MIN = 4
/** A run is tried to be ended, or given back, this often; then its lease lapses. */
const END_AGAIN = { tries: 10, baseMs: 100, maxMs: 2_000 }
/** A run that is handed over at a stop is tried to be given back again for so long. */
const HAND_OVER_MS = 2_000
/** A run for which no worker could be started is left to others first. */
const START_AGAIN_MS = 500

/**
 * Works on runs: claims as many as there are free workers, keeps their leases, and writes how each one ends.
 * Whatever happens to a worker, this process or the database, a run is either ended here, given back, or left to lapse;
 * it is never ended twice, because every write names the claim's fencing number (I4, I5).
 */
export function createRunner(deps: RunnerDeps, options: RunnerOptions): Runner {
  const { sql, log, pool, signals, metrics = NO_METRICS, tracer = NO_TRACER } = deps
  const active = new Map<string, Active>()
  let reserved = 0
  let loading = 0
  let draining = false
  let afterOrganization = ''

  const claiming = createLoop({ log }, { name: 'claims', everyMs: options.pollMs, pass: claim })
  const keeping = createLoop({ log }, { name: 'leases', everyMs: options.leaseMs / 3, pass: keep })

  const slots = () => (draining ? 0 : Math.max(0, pool.free() - reserved - loading))

  async function claim() {
    if (slots() === 0) return false
    // What comes now finds the other half of the slots free.
    const half = Math.ceil(slots() / 2)
    const own = async (limit: number) => (await claimUpTo(limit, (args) => claimPreferredRuns(sql, args))).length > 0
    const capped = async (limit: number) => (await claimUpTo(limit, (args) => claimCappedRuns(sql, args))).length > 0
    if (half >= TOGETHER_MIN) {
      const quarter = Math.floor(half / 4)
      const passes = await Promise.allSettled([claimReady(half - 2 * quarter), own(quarter), capped(quarter)])
      // All have ended, also where one has failed: what is claimed after a pass would be nobody's to hand over.
      return passes.map(resultOf).some(Boolean)
    }
    // With few slots, what waits for this very replica goes before what any may take.
    const found: boolean[] = []
    for (const next of [own, capped, claimReady]) if (slots() > 0) found.push(await next(Math.ceil(slots() / 2)))
    return found.some(Boolean)
  }

  /** True when more may be found: an organization with few runs leaves its share of a claim unused. */
  async function claimReady(limit: number): Promise<boolean> {
    const first = afterOrganization
    const ready = await claimUpTo(limit, (args) => claimReadyRuns(sql, { ...args, afterOrganization: first }))
    const last = ready
      .map((run) => run.organizationId)
      .sort()
      .at(-1)
    afterOrganization = last ?? ''
    // Behind the last organization the list starts over.
    return ready.length > 0 || first !== ''
  }

  /** Claims for so many free slots, which nobody else may fill meanwhile. */
  async function claimUpTo(most: number, query: (args: ClaimArgs) => Promise<ClaimedRun[]>): Promise<ClaimedRun[]> {
    const limit = Math.min(most, CLAIM_MAX)
    reserved += limit
    try {
      const claimed = await query({ ...options, limit, organizationMax: options.organizationRunsMax })
      claimed.forEach(begin)
      return claimed
    } finally {
      reserved -= limit
    }
  }

  async function keep() {
    const held = [...active.values()].filter((one) => one.reason === null)
    if (held.length === 0) return
    const kept = await renewRuns(sql, { ...options, runs: held.map((one) => one.run) })
    for (const one of held) if (!kept.has(one.run.id) && active.get(one.run.id) === one) stop(one, 'lease lost')
  }

  function stop(one: Active, reason: StopReason) {
    one.reason ??= reason
    one.abort.abort()
  }

  function begin(run: ClaimedRun) {
    const trace = createTurnTrace(tracer, run, options)
    const about = aboutRun(run, trace)
    const one: Active = {
      ...{ run, trace, about, log: log.child(about), abort: new AbortController() },
      ...{ turn: null, reason: null, done: Promise.resolve() },
    }
    active.set(run.id, one)
    metrics.observe('lobu_claim_latency_seconds', {}, (run.waitedMs ?? 0) / 1000)
    one.done = work(one)
      .catch((error: unknown) => one.log.error({ err: errorLine(error) }, 'run left to its lease'))
      .finally(() => {
        trace.end('left to its lease')
        if (active.get(run.id) === one) active.delete(run.id)
        claiming.ring()
      })
  }

  async function work(one: Active) {
    const { run, trace } = one
    const startedAt = performance.now()
    const replies = deps.replies.open(run, () => stop(one, 'lease lost'), trace.traceparent)
    const deadline = setTimeout(() => stop(one, 'timeout'), options.runMsMax)
    try {
      const outcome = await runTurn(one, replies)
      trace.turnEnds(outcome.end)
      const said = await trace.phase('conclude', () => conclude(one, { replies, ...outcome }))
      trace.end(said)
      const durationMs = Math.round(performance.now() - startedAt)
      metrics.count('lobu_run_attempts_total', { outcome: said })
      metrics.observe('lobu_run_duration_seconds', {}, durationMs / 1000)
      one.log.info({ attempt: run.attempt, outcome: said, error: outcome.end.error?.code, durationMs }, 'run')
    } finally {
      clearTimeout(deadline)
    }
  }

  async function runTurn(one: Active, replies: RunReplies): Promise<{ end: TurnEnd; model?: string }> {
    const signal = one.abort.signal
    loading++
    let isLoading = true
    const loaded = () => {
      if (isLoading) loading--
      isLoading = false
    }
    try {
      const begun = () =>
        beginTurn(
          { ...deps, log: one.log },
          {
            ...{ run: one.run, replies, signal, textCharsMax: options.textCharsMax },
            onTooLong: () => stop(one, 'too long'),
          },
        )
      one.turn = await one.trace.phase('load', begun)
      if (!one.turn) return { end: failure('conversation_gone', 'The conversation was removed') }
      const { agentId, model: name, isAnswered, failed } = one.turn.context
      const outlast = { log: one.log, signal }
      const owner = { organizationId: one.run.organizationId, agentId }
      const model = await outlastOutage(() => deps.resolveModel(name, owner), outlast)
      const modelName = `${model.provider}/${model.modelId}`
      if (isAnswered) return { end: failed ? failedStep(failed) : COMPLETED, model: modelName }
      const spent = await outlastOutage(() => deps.budgets.findExhausted(one.run.organizationId), outlast)
      if (spent) return { end: failure('budget_exhausted', spent.message) }
      void noteWorker(sql, one.run, options.replica).catch(() => {})
      const turn = pool.runTurn({
        key: `${one.run.organizationId}/${one.run.conversationId}`,
        turn: { ...toCommand(one.turn, model, options.limits), traceparent: one.trace.turnBegins(model) },
        on: withTrace(one.turn.handlers, one.trace),
        about: one.about,
        signal,
      })
      loaded()
      return { end: await turn, model: modelName }
    } catch (error) {
      // A database that stays away says nothing about the turn: it is tried again.
      const databaseIsAway = isDatabaseAway(error)
      if (error instanceof AppError && !databaseIsAway) return { end: failure(error.code, error.message) }
      one.log[databaseIsAway ? 'warn' : 'error']({ err: errorLine(error) }, 'turn could not begin')
      return { end: { ...failure('internal', 'The turn could not be started'), status: 'lost' } }
    } finally {
      loaded()
    }
  }

  /** Writes what became of the run, and returns it in a word for the log. */
  async function conclude(one: Active, args: { replies: RunReplies; end: TurnEnd; model?: string }): Promise<Outcome> {
    const { run, reason } = one
    const { end, replies } = args
    // At a stop others wait for this process to be gone; the lease is what hands the run over then.
    const soon = reason === 'handed over' ? { signal: AbortSignal.timeout(HAND_OVER_MS) } : {}
    const insist = <T>(write: () => Promise<T>) =>
      retry(write, { ...END_AGAIN, ...soon, log: one.log, waiting: 'outcome of run waits for the database' })
    const giveBack = async (how: { delayMs: number; countAttempt: boolean }) => {
      const isHeld = await insist(() => releaseRun(sql, run, how))
      // Also where it was no longer held: a release may have been done, and its answer lost.
      signals.runReady()
      return isHeld
    }
    // The lease bounds how long a batch may wait for a database that is away.
    const unsent = await replies.close(AbortSignal.timeout(options.leaseMs * 2))
    if (reason === 'ended elsewhere' || reason === 'lease lost') return reason
    if (unsent === null) throw new Error('its replies could not be stored')
    if (reason === 'handed over') {
      await giveBack({ delayMs: 0, countAttempt: false })
      return reason
    }
    const failed = reason ? FAILURES[reason] : end
    if (failed.error?.code === 'worker_start_failed') {
      // It says nothing of the turn, which waits for another replica, or until workers can be started here again.
      await giveBack({ delayMs: START_AGAIN_MS, countAttempt: false })
      return 'not started'
    }
    const lost = failed.status === 'lost' || failed.status === 'cancelled'
    if ((lost || failed.error?.retryable) && failed.status !== 'completed' && run.attempt < options.attemptsMax) {
      const delayMs = lost && run.attempt === 1 ? 0 : backoffMs(run.attempt, { baseMs: 1_000, maxMs: 15_000 })
      await giveBack({ delayMs, countAttempt: true })
      return 'retried'
    }
    const status = failed.status === 'completed' ? 'completed' : 'failed'
    const endOfRun: EndOfRun = {
      ...run,
      traceparent: one.trace.traceparent,
      status,
      error: failed.error,
      usage: one.turn?.usage(end.usage),
      model: args.model,
      text: one.turn?.text(),
      batch: replies.batch(),
      lastEvents: unsent,
      deadLetter: lost,
    }
    const { ended } = await insist(() => endRun(deps, endOfRun))
    if (ended.length > 0) return status
    // Somebody else ended it; or a crash of the database took replies that it had stored, and they must be said again.
    return (await giveBack({ delayMs: 0, countAttempt: false })) ? 'retried' : 'ended elsewhere'
  }

  /** A turn whose organization has nothing left is stopped where its next step would begin: what it has said is kept. */
  async function hasBudget(one: Active): Promise<boolean> {
    const spent = await deps.budgets.findExhausted(one.run.organizationId)
    if (spent) stop(one, 'budget exhausted')
    return spent === null
  }

  const held = (given: RunRef) => {
    const one = active.get(given.runId)
    return one && one.run.fence === given.fence && one.reason === null ? one : undefined
  }

  return {
    loops: [claiming, keeping],
    active: () => active.size,
    ring: claiming.ring,
    reserve() {
      if (slots() === 0) return false
      reserved++
      return true
    },
    settle(run) {
      reserved--
      if (run) begin(run)
    },
    stopRun(runId) {
      const one = active.get(runId)
      if (one) stop(one, 'ended elsewhere')
    },
    forget: pool.forget,
    ownerOf(given) {
      const one = held(given)
      return one?.turn ? { organizationId: one.run.organizationId, agentId: one.turn.context.agentId } : undefined
    },
    traceModelCall: (given, traceparent) => active.get(given.runId)?.trace.modelCall(traceparent) ?? (() => {}),
    requests: {
      async saveStep(step) {
        const one = held(step)
        const turn = one?.turn
        return one && turn ? one.trace.saveStep(step, () => turn.saveStep(step)) : 'stale'
      },
      takeSteer: async (given) => {
        const one = held(given)
        return one && (await hasBudget(one)) ? takeSteerMessages(sql, one.run) : []
      },
    },
    async start() {
      await Promise.all([claiming.start(), keeping.start()])
    },
    async drain(graceMs, signal) {
      draining = true
      await claiming.stop()
      await settlesWithin(Promise.allSettled([...active.values()].map((one) => one.done)), graceMs, signal)
      for (const one of active.values()) stop(one, 'handed over')
      await Promise.allSettled([...active.values()].map((one) => one.done))
      await keeping.stop()
    },
  }
}

function aboutRun(run: ClaimedRun, trace: TurnTrace): Record<string, string> {
  const traceId = traceIdOf(trace.traceparent ?? run.traceparent)
  const ids = { runId: run.id, conversationId: run.conversationId, organizationId: run.organizationId }
  return traceId === undefined ? ids : { ...ids, traceId }
}

function resultOf<T>(outcome: PromiseSettledResult<T>): T {
  if (outcome.status === 'rejected') throw outcome.reason
  return outcome.value
}
