import { STATUS_CLASSES } from '../lib/status-class.ts'

/** One metric: `docs/observability.md` lists them, the dashboard and the alert rules may name no other. */
export interface Definition {
  kind: 'counter' | 'histogram' | 'gauge'
  help: string
  /** Few values each: never an id, a path or a text. */
  labels: readonly string[]
  /** All values of the labels that have a closed list: who reports, and who asks, can name no other. */
  values?: Readonly<Record<string, readonly string[]>>
  /** Upper bounds of a histogram, in its unit. */
  buckets?: readonly number[]
}

/** From a millisecond to half a minute: what somebody waits for. */
const WAITS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]
/** From a tenth of a second to half an hour: what works. */
const WORK = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800]

const QUEUES = ['runs', 'thread_response', 'outbox'] as const

/** Every metric of our own, by name. Those of the process itself (`process_*`, `nodejs_*`) come from prom-client. */
export const METRICS = {
  lobu_info: { kind: 'gauge', help: 'Always 1; says which release this is', labels: ['version'] },
  lobu_ready: { kind: 'gauge', help: '1 while this replica takes work, as /health/ready says', labels: [] },
  lobu_isolation_tier: {
    kind: 'gauge',
    help: 'What holds workers in: 1 (kernel rules) is the strongest, 4 the weakest that enforces anything, 0 enforces nothing',
    labels: [],
  },
  lobu_http_request_duration_seconds: {
    kind: 'histogram',
    help: 'Requests by route template and class of status; of an event stream the time until it was open',
    labels: ['method', 'route', 'status'],
    values: { status: STATUS_CLASSES },
    buckets: WAITS,
  },
  lobu_queue_depth: {
    kind: 'gauge',
    help: 'Rows that could be taken now; 10000 means that many or more',
    labels: ['queue'],
    values: { queue: QUEUES },
  },
  lobu_queue_oldest_age_seconds: {
    kind: 'gauge',
    help: 'For how long the first of them could have been taken',
    labels: ['queue'],
    values: { queue: QUEUES },
  },
  lobu_queue_sample_age_seconds: {
    kind: 'gauge',
    help: 'Age of the figures of the queues; it grows while the database does not answer, and then they are left out. Missing before the first',
    labels: [],
  },
  lobu_loop_age_seconds: {
    kind: 'gauge',
    help: 'Time since the last good pass of a background loop',
    labels: ['loop'],
  },
  lobu_loop_stale_seconds: {
    kind: 'gauge',
    help: 'Age at which this loop makes the replica not ready',
    labels: ['loop'],
  },
  lobu_claim_latency_seconds: {
    kind: 'histogram',
    help: 'From when a run could be claimed until it was, by the clock of the database',
    labels: [],
    buckets: WAITS,
  },
  lobu_delivery_latency_seconds: {
    kind: 'histogram',
    help: 'From when a worker said something until it was written to the streams here; once for all streams of a conversation',
    labels: [],
    buckets: WAITS,
  },
  lobu_runs_ended_total: {
    kind: 'counter',
    help: 'Runs by how they ended',
    labels: ['status'],
    values: { status: ['completed', 'failed', 'cancelled'] },
  },
  lobu_run_attempts_total: {
    kind: 'counter',
    help: 'Claims of runs by what became of them on this replica',
    labels: ['outcome'],
    values: {
      outcome: ['completed', 'failed', 'retried', 'handed over', 'not started', 'ended elsewhere', 'lease lost'],
    },
  },
  lobu_run_duration_seconds: {
    kind: 'histogram',
    help: 'Length of one attempt, from its claim to its record',
    labels: [],
    buckets: WORK,
  },
  lobu_dead_letters_total: {
    kind: 'counter',
    help: 'Work that was given up and kept for a person',
    labels: ['kind'],
    values: { kind: ['runs', 'webhook'] },
  },
  lobu_tokens_total: {
    kind: 'counter',
    help: 'Tokens of saved steps, by the provider’s figures; of the input, cached_input is a part',
    labels: ['provider', 'model', 'kind'],
    values: { kind: ['input', 'cached_input', 'output'] },
  },
  lobu_cost_usd_total: {
    kind: 'counter',
    help: 'Cost of saved steps in US dollars, of models that have a price',
    labels: ['provider', 'model'],
  },
  lobu_model_call_duration_seconds: {
    kind: 'histogram',
    help: 'Calls of models, to the end of the answer, by class of status or `aborted`',
    labels: ['provider', 'status'],
    values: { status: [...STATUS_CLASSES, 'aborted'] },
    buckets: WORK,
  },
  lobu_webhooks_total: {
    kind: 'counter',
    help: 'Tries of webhook calls by outcome',
    labels: ['outcome'],
    values: { outcome: ['delivered', 'postponed', 'given_up', 'superseded', 'unrecorded'] },
  },
  lobu_egress_total: {
    kind: 'counter',
    help: 'Calls to addresses that somebody outside chose: ok, status, or why there was no answer',
    labels: ['outcome'],
    values: {
      outcome: ['ok', 'status', 'bad_url', 'private_address', 'dns', 'connect', 'tls', 'network', 'timeout'],
    },
  },
  lobu_streams: { kind: 'gauge', help: 'Open event streams of this replica', labels: [] },
  lobu_streams_max: { kind: 'gauge', help: 'How many there may be', labels: [] },
  lobu_streams_ended_total: {
    kind: 'counter',
    help: 'Event streams that this replica ended or refused: replaced, stalled, unauthorized, refused',
    labels: ['reason'],
    values: { reason: ['replaced', 'stalled', 'unauthorized', 'refused'] },
  },
  lobu_workers: {
    kind: 'gauge',
    help: 'Worker processes: busy, idle (kept for a conversation), warm',
    labels: ['state'],
    values: { state: ['busy', 'idle', 'warm'] },
  },
  lobu_workers_max: { kind: 'gauge', help: 'How many there may be', labels: [] },
  lobu_workers_busy_max: {
    kind: 'gauge',
    help: 'How many of them may be busy: turns that this replica runs at once',
    labels: [],
  },
  lobu_db_pool_connections: {
    kind: 'gauge',
    help: 'Places of the database pool: busy, free',
    labels: ['state'],
    values: { state: ['busy', 'free'] },
  },
  lobu_db_pool_waiting: { kind: 'gauge', help: 'Statements that wait for a place', labels: [] },
} as const satisfies Record<string, Definition>

type All = typeof METRICS
type NamesOf<Kind extends Definition['kind']> = { [N in keyof All]: All[N]['kind'] extends Kind ? N : never }[keyof All]
export type CounterName = NamesOf<'counter'>
export type HistogramName = NamesOf<'histogram'>
export type GaugeName = NamesOf<'gauge'>
/** The values of one label: those of its list, or any text. */
type ValueOf<N extends keyof All, L extends string> = All[N] extends {
  values: Record<L, readonly (infer V extends string)[]>
}
  ? V
  : string
export type LabelsOf<N extends keyof All> = { [L in All[N]['labels'][number]]: ValueOf<N, L> }
