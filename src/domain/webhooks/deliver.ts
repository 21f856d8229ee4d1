import type { GuardedFetch, OutboundResult } from '../../adapters/outbound/contract.ts'
import type { Sql } from '../../db/client.ts'
import { backoffMs } from '../../lib/backoff.ts'
import { errorLine } from '../../lib/errors.ts'
import type { Logger } from '../../lib/logger.ts'
import { createLoop, type Loop } from '../../lib/loop.ts'
import { traceIdOf } from '../../lib/traceparent.ts'
import {
  buryCall,
  type ClaimedCall,
  claimCalls,
  completeCall,
  type Lane,
  postponeCall,
  promoteDueCalls,
  readReadyLanes,
} from '../../queue/outbox.ts'
import { type Metrics, NO_METRICS } from '../../telemetry/metrics.ts'
import { NO_TRACER, type Span, type Tracer } from '../../telemetry/tracer.ts'
import { chooseLanes } from './lanes.ts'
import { signWebhook, webhookSigningKey } from './signature.ts'

const KIND = 'webhook'
/** Calls at once on this replica. */
const CONCURRENCY = 8
/** Far longer than a call can take, so that it lapses only when its holder died or was frozen. */
const LEASE_MS = 60_000
/** With the waits below the last try comes about fifty minutes after the first. */
const ATTEMPTS_MAX = 12
const BACKOFF = { baseMs: 2_000, maxMs: 3_600_000 }
/** Lanes that one look goes through: a few milliseconds. */
const LANES_MAX = 200

interface WebhookDelivererDeps {
  sql: Sql
  log: Logger
  fetch: GuardedFetch
  metrics?: Metrics
  tracer?: Tracer
  /** `JWT_SECRET`. */
  signingSecret: string
}

export interface WebhookDelivererOptions {
  pollMs: number
  concurrency?: number
  attemptsMax?: number
}

/**
 * Makes the webhook calls that are owed, those of every replica. Each call is tried until it is answered 2xx, at most
 * `attemptsMax` times; 410 ends it at once; what is given up becomes a dead letter.
 *
 * **At least once:** when a process dies between the call and its record, or its connection to the database does, the
 * call is made again with the same `x-lobu-delivery`, by which receivers tell a repetition. Without such an end it is
 * made once, however many replicas there are. No order is promised.
 *
 * One organization, or one host, gets at most half of the places, and one organization's calls to one host a quarter.
 * `stop` waits for the calls under way, which the bounds of `fetch` end.
 */
export function createWebhookDeliverer(deps: WebhookDelivererDeps, options: WebhookDelivererOptions): Loop {
  const { sql, log, metrics = NO_METRICS, tracer = NO_TRACER } = deps
  const { concurrency = CONCURRENCY, attemptsMax = ATTEMPTS_MAX } = options
  const half = Math.max(1, Math.floor(concurrency / 2))
  const limits = { organizationMax: half, hostMax: half, laneMax: Math.max(1, Math.floor(concurrency / 4)) }
  const underWay = new Map<Lane, Promise<void>>()
  let served: Lane | null = null
  const loop = createLoop({ log }, { name: 'webhooks', everyMs: options.pollMs, pass })

  /**
   * Fills the free places, once around all lanes, from behind the one that was served last: all get their turn. A place
   * that becomes free meanwhile is left to the next pass, or lanes at the start would take it from those in between.
   */
  async function pass(signal: AbortSignal): Promise<boolean> {
    const morePromotable = await promoteDueCalls(sql)
    const taken: Lane[] = [...underWay.keys()]
    let after = served
    for (let ends = after === null ? 1 : 2; ends > 0 && !signal.aborted; ) {
      const free = concurrency - taken.length
      if (free === 0) return false
      const look = await readReadyLanes(sql, { kind: KIND, after, lanesMax: LANES_MAX, perLaneMax: limits.laneMax })
      const lanes = chooseLanes(look.lanes, taken, { ...limits, free })
      const calls = lanes.length === 0 ? [] : await claimCalls(sql, { kind: KIND, lanes, leaseMs: LEASE_MS })
      for (const call of calls) underWay.set(call, deliver(call))
      taken.push(...calls)
      served = lanes.at(-1) ?? served
      after = look.last
      if (after === null) ends--
    }
    return morePromotable
  }

  async function deliver(call: ClaimedCall) {
    const startedAt = performance.now()
    const ids = idsOf(call)
    const span = tracer.start('webhook', {
      ...{ parent: call.traceparent, kind: 'client' },
      attributes: {
        'http.request.method': 'POST',
        'server.address': call.targetHost,
        'lobu.organization.id': call.organizationId,
        'lobu.delivery.id': call.id,
        'http.request.resend_count': call.attempt - 1,
      },
    })
    try {
      const outcome = await attemptCall(deps, call, { attemptsMax, traceparent: span.traceparent })
      describeOutcome(span, outcome)
      const line = { ...ids, ...outcome, durationMs: Math.round(performance.now() - startedAt) }
      log[LEVELS[outcome.outcome]](line, 'webhook')
      metrics.count('lobu_webhooks_total', { outcome: outcome.outcome })
      if (outcome.outcome === 'given_up') metrics.count('lobu_dead_letters_total', { kind: 'webhook' })
    } catch (error) {
      metrics.count('lobu_webhooks_total', { outcome: 'unrecorded' })
      log.warn({ ...ids, outcome: 'unrecorded', err: errorLine(error) }, 'webhook: it is repeated when its lease ends')
    } finally {
      span.end()
      underWay.delete(call)
      loop.ring()
    }
  }

  return {
    ...loop,
    async stop() {
      await loop.stop()
      await Promise.all(underWay.values())
    },
  }
}

type Outcome = 'delivered' | 'postponed' | 'given_up' | 'superseded'

/** `superseded`: another process took the call over meanwhile, because this one was silent past its lease. */
const LEVELS = { delivered: 'info', postponed: 'warn', given_up: 'error', superseded: 'warn' } as const

interface Recorded {
  outcome: Outcome
  status?: number
  fault?: string
  retryInMs?: number
}

/** One try and its record. No transaction is open while the call is made. */
async function attemptCall(
  deps: WebhookDelivererDeps,
  call: ClaimedCall,
  { attemptsMax, traceparent }: { attemptsMax: number; traceparent: string | undefined },
): Promise<Recorded> {
  const { sql } = deps
  // Its last try was claimed and never came to an end: it may be what kills its process, so it is not made again.
  if (call.attempt > attemptsMax) {
    const error = 'the last try did not come to an end'
    const held = await buryCall(sql, call, { error, attempts: attemptsMax })
    return { outcome: held ? 'given_up' : 'superseded', fault: error }
  }
  const result = await post(deps, call, traceparent)
  deps.metrics?.count('lobu_egress_total', { outcome: result.ok ? 'ok' : result.reason })
  if (result.ok) return { outcome: (await completeCall(sql, call)) ? 'delivered' : 'superseded', status: result.status }

  const told = {
    fault: `${result.reason}: ${result.message}`,
    ...(result.reason === 'status' ? { status: result.status } : {}),
  }
  if (call.attempt >= attemptsMax || told.status === 410) {
    const held = await buryCall(sql, call, { error: told.fault, attempts: call.attempt })
    return { ...told, outcome: held ? 'given_up' : 'superseded' }
  }
  const retryInMs = delayOf(call.attempt, result)
  const held = await postponeCall(sql, call, { delayMs: retryInMs })
  return { ...told, outcome: held ? 'postponed' : 'superseded', retryInMs }
}

/** Ids for the lines of the log about this call. */
function idsOf(call: ClaimedCall) {
  const { runId, conversationId } = call.payload
  const traceId = traceIdOf(call.traceparent)
  return {
    organizationId: call.organizationId,
    ...(typeof runId === 'string' ? { runId } : {}),
    ...(typeof conversationId === 'string' ? { conversationId } : {}),
    ...(traceId === undefined ? {} : { traceId }),
    deliveryId: call.id,
    attempt: call.attempt,
    host: call.targetHost,
  }
}

function describeOutcome(span: Span, { outcome, status, fault }: Recorded) {
  span.set({ 'lobu.webhook.outcome': outcome, 'http.response.status_code': status })
  if (outcome !== 'delivered') span.fail(fault)
}

function post(
  { fetch, signingSecret }: WebhookDelivererDeps,
  call: ClaimedCall,
  traceparent: string | undefined,
): Promise<OutboundResult> {
  const body = JSON.stringify(call.payload)
  const key = webhookSigningKey(signingSecret, call.organizationId)
  return fetch({
    url: call.target,
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      'user-agent': 'lobu',
      'x-lobu-event': 'run.ended',
      'x-lobu-delivery': call.id,
      'x-lobu-attempt': String(call.attempt),
      ...(traceparent === undefined ? {} : { traceparent }),
      'x-lobu-signature': signWebhook(key, { body, unixSeconds: Math.floor(Date.now() / 1000) }),
    },
    body,
  })
}

/** Never sooner than the receiver asked for, as long as it asks for no more than our longest wait. */
function delayOf(attempt: number, result: OutboundResult & { ok: false }): number {
  const asked = result.reason === 'status' ? (result.retryAfterMs ?? 0) : 0
  return Math.max(backoffMs(attempt, BACKOFF), Math.min(asked, BACKOFF.maxMs))
}
