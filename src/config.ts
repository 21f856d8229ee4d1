import { accountSettings, incompletePairs, publicUrlFault } from './config/accounts.ts'
import { DEFAULT_PORT, Env } from './config/environment.ts'
import { productionFaults, weakSecrets } from './config/production.ts'
import { retentionSettings } from './config/retention.ts'
import { PRODUCTION_WAIT_SECONDS, shutdownTimes } from './config/shutdown.ts'
import { telemetrySettings } from './config/telemetry.ts'

/** Far longer than a replica that works needs between two statements of a transaction. */
const TRANSACTION_IDLE_MS_MAX = 5_000

export type Config = ReturnType<typeof buildConfig>

/** Thrown by `parseConfig`; its message names every bad variable at once and never a value. */
export class ConfigError extends Error {
  readonly faults: string[]

  constructor(faults: string[]) {
    super(`Bad configuration:\n${faults.map((fault) => `  ${fault}`).join('\n')}`)
    this.name = 'ConfigError'
    this.faults = faults
  }
}

/** `needsSecrets: false` lets production lack its two secrets: for commands that work on the database alone. */
interface Circumstances {
  isTerminal?: boolean
  needsSecrets?: boolean
}

/**
 * Turns the environment into the one typed settings object. Pure; called once. Nothing else reads `process.env`:
 * a module is handed the part of `Config` it needs. Durations leave here in milliseconds.
 *
 * @throws ConfigError with all faults together.
 */
export function parseConfig(env: Record<string, string | undefined>, where: Circumstances = {}): Config {
  const { config, faults } = inspectConfig(env, where)
  if (faults.length > 0) throw new ConfigError(faults)
  return config
}

/** What `lobu doctor` looks at: the settings as far as they can be read, and all that is wrong with them. */
export interface InspectedConfig {
  /** A setting that cannot be read has its default here. */
  config: Config
  /** `NAME: what is wrong`, never a value. Not empty: nothing but `doctor` starts. */
  faults: string[]
  /** Secrets that production would refuse, in any mode. */
  weakSecrets: string[]
}

/** `parseConfig` for whoever must go on in spite of faults. */
export function inspectConfig(
  env: Record<string, string | undefined>,
  { isTerminal = false, needsSecrets = true }: Circumstances = {},
): InspectedConfig {
  const given = dropEmpty(env)
  const parsed = Env.safeParse(given)
  const issues = parsed.success ? [] : parsed.error.issues
  const bad = new Set(issues.map((issue) => String(issue.path[0])))
  const readable = Object.fromEntries(Object.entries(given).filter(([name]) => !bad.has(name)))
  return {
    config: buildConfig(parsed.data ?? Env.parse(readable), isTerminal),
    faults: [
      ...issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`),
      ...productionFaults(given, needsSecrets),
      ...incompletePairs(given),
    ],
    weakSecrets: weakSecrets(given),
  }
}

function buildConfig(e: Env, isTerminal: boolean) {
  const production = e.NODE_ENV === 'production'
  return {
    mode: e.NODE_ENV,
    dataDir: e.LOBU_DATA_DIR,
    http: {
      port: e.PORT,
      host: e.HOST ?? (production ? '0.0.0.0' : '127.0.0.1'),
      publicUrl: e.PUBLIC_WEB_URL ?? `http://localhost:${e.PORT || DEFAULT_PORT}`,
      publicUrlFault: production ? publicUrlFault(e.PUBLIC_WEB_URL) : null,
      // Whoever develops opens the page by either name.
      trustedOrigins:
        production || e.PUBLIC_WEB_URL !== undefined
          ? e.TRUSTED_ORIGINS
          : [...e.TRUSTED_ORIGINS, `http://127.0.0.1:${e.PORT || DEFAULT_PORT}`],
      trustedProxies: e.TRUSTED_PROXY,
      requestsMax: e.REQUESTS_MAX,
      connectionsMax: e.CONNECTIONS_MAX,
    },
    accounts: {
      ...accountSettings(e),
      singleOrganization: e.SINGLE_ORGANIZATION,
      auditKeepDays: e.AUDIT_KEEP_DAYS,
    },
    retention: retentionSettings(e),
    db: {
      url: e.DATABASE_URL,
      directUrl: e.DATABASE_DIRECT_URL,
      poolMax: e.DATABASE_POOL_MAX,
      transactionIdleMsMax: transactionIdleMsMax(e),
      skipMigrations: e.SKIP_MIGRATIONS !== undefined,
    },
    secrets: {
      jwt: e.JWT_SECRET,
      betterAuth: e.BETTER_AUTH_SECRET,
      encryption: e.ENCRYPTION_KEY,
      encryptionOld: listOf(e.ENCRYPTION_KEYS_OLD),
    },
    queue: {
      leaseMs: e.RUN_LEASE_SECONDS * 1000,
      attemptsMax: e.RUN_ATTEMPTS_MAX,
      runMsMax: e.RUN_SECONDS_MAX * 1000,
      turnCharsMax: e.TURN_CHARS_MAX,
      pollMs: e.QUEUE_POLL_SECONDS * 1000,
      depthMax: e.QUEUE_DEPTH_MAX,
      orgDepthMax: e.ORG_QUEUE_MAX,
      orgRunsMax: e.ORG_RUNS_MAX,
    },
    limits: {
      requestsPerMinute: e.ORG_REQUESTS_PER_MINUTE || null,
      keyRequestsPerMinute: e.KEY_REQUESTS_PER_MINUTE || null,
      runsMax: e.ORG_RUNS_MAX,
    },
    sse: {
      streamsMax: e.STREAMS_MAX,
      streamsPerConversationMax: e.STREAMS_PER_CONVERSATION_MAX,
      pingMs: e.STREAM_PING_SECONDS * 1000,
      bufferBytesMax: e.STREAM_BUFFER_BYTES_MAX,
    },
    workers: {
      max: e.WORKERS_MAX,
      busyMax: e.WORKERS_BUSY_MAX,
      warm: e.WORKERS_WARM,
      idleMs: e.WORKER_IDLE_SECONDS * 1000,
      startMs: e.WORKER_START_SECONDS * 1000,
      silenceMs: e.WORKER_SILENCE_SECONDS * 1000,
      memoryMb: e.WORKER_MEMORY_MB,
      stepsMax: e.WORKER_STEPS_MAX,
      outputTokensMax: e.WORKER_OUTPUT_TOKENS_MAX,
    },
    models: {
      defaultModel: e.DEFAULT_MODEL ?? firstModel(e),
      pricesFile: e.MODEL_PRICES_FILE,
      providers: {
        anthropic: { baseUrl: e.ANTHROPIC_BASE_URL, apiKey: e.ANTHROPIC_API_KEY },
        openai: { baseUrl: e.OPENAI_BASE_URL, apiKey: e.OPENAI_API_KEY },
        'openai-compatible': { baseUrl: e.OPENAI_COMPATIBLE_BASE_URL, apiKey: e.OPENAI_COMPATIBLE_API_KEY },
        google: { baseUrl: e.GOOGLE_BASE_URL, apiKey: googleKey(e) },
      },
    },
    webhooks: { allowedHosts: listOf(e.WEBHOOK_ALLOWED_HOSTS) },
    shutdown: shutdownTimes({
      waitMs: (e.SHUTDOWN_WAIT_SECONDS ?? (production ? PRODUCTION_WAIT_SECONDS : 0)) * 1000,
      graceMs: e.SHUTDOWN_GRACE_SECONDS * 1000,
    }),
    telemetry: telemetrySettings(e),
    log: { level: e.LOG_LEVEL, pretty: e.LOG_PRETTY ?? isTerminal },
  }
}

/**
 * `PORT=` in a chart or an .env file means "not set", not the empty string; a blank would be read as the number 0. The
 * line end that a file leaves in a mounted secret would make another database name or an invalid header of it.
 */
function dropEmpty(env: Record<string, string | undefined>): Record<string, string> {
  const trimmed = Object.entries(env).map(([name, value = '']) => [name, value.trim()] as const)
  return Object.fromEntries(trimmed.filter(([, value]) => value !== ''))
}

/**
 * A replica that is frozen in a transaction may hold locks that others need to renew their leases, which they do after a
 * third of one: its transaction must be over soon enough for that.
 */
function transactionIdleMsMax(e: Env): number {
  return Math.min(TRANSACTION_IDLE_MS_MAX, (e.RUN_LEASE_SECONDS * 1000) / 2)
}

function listOf(text: string): string[] {
  return text
    .split(',')
    .map((entry) => entry.trim())
    .filter(Boolean)
}

function googleKey(e: Env) {
  return e.GOOGLE_GENERATIVE_AI_API_KEY ?? e.GOOGLE_API_KEY ?? e.GEMINI_API_KEY
}

/** The model of agents that name none: a provider whose key is set, by the order below, else the built-in one. */
function firstModel(e: Env): string {
  if (e.ANTHROPIC_API_KEY) return 'anthropic/claude-sonnet-4-5'
  if (e.OPENAI_API_KEY) return 'openai/gpt-5-mini'
  if (googleKey(e)) return 'google/gemini-2.5-flash'
  return 'demo/demo'
}
