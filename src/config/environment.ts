import { z } from 'zod'
import { parseTrustedProxies } from '../lib/addresses.ts'
import { readOrigins } from './accounts.ts'
import { OTLP_PROTOCOLS, SAMPLERS } from './telemetry.ts'

const seconds = (fallback: number, min = 1, max = 86_400) => z.coerce.number().min(min).max(max).default(fallback)
const count = (fallback: number, min = 1, max = 1_000_000) =>
  z.coerce.number().int().min(min).max(max).default(fallback)
const flag = z
  .enum(['1', 'true', 'yes', 'on', '0', 'false', 'no', 'off'], {
    error: 'must be 1, true, yes, on, 0, false, no or off',
  })
  .transform((word) => ['1', 'true', 'yes', 'on'].includes(word))
/** The rest of it is read by `db/url.ts`: lists of hosts, which are no URLs, are fine. */
const postgresUrl = z.string().regex(/^postgres(ql)?:\/\//, 'must be a postgres:// or postgresql:// URL')
const httpUrl = z.url({ protocol: /^https?$/, error: 'must be an http:// or https:// URL' })
const baseUrl = (fallback: string) => httpUrl.default(fallback).transform((url) => url.replace(/\/+$/, ''))

/** Comma separated; each is read by `read`, which throws for one that it does not take. */
const readBy = <T>(read: (text: string) => T) =>
  z
    .string()
    .default('')
    .transform((text, ctx) => {
      try {
        return read(text)
      } catch (error) {
        ctx.addIssue({ code: 'custom', message: (error as Error).message })
        return z.NEVER
      }
    })

export const DEFAULT_PORT = 8787
/**
 * Each variable, its bounds and its default. The comment is the documentation of the variable; units are in the name.
 * Everything is optional here; what production cannot do without is checked in `productionFaults`.
 */
export const Env = z.object({
  /** `production` makes the secrets and the database mandatory; `development` fills in what is missing. */
  NODE_ENV: z.enum(['development', 'production', 'test']).default('development'),
  /** TCP port of the HTTP server. 0 takes any free port and logs it. */
  PORT: z.coerce.number().int().min(0).max(65_535).default(DEFAULT_PORT),
  /** Address to listen on. Empty: all IPv4 addresses in production (`::` takes IPv6 too), loopback otherwise. */
  HOST: z.string().optional(),
  /** Origin under which clients reach the gateway; links and callbacks are built from it. Empty: http://localhost and `PORT`. */
  PUBLIC_WEB_URL: httpUrl.transform((url) => new URL(url).href.replace(/\/+$/, '')).optional(),

  /** Further origins (comma separated) whose pages may call with a signed-in person's cookie and may be returned to after signing in. */
  TRUSTED_ORIGINS: readBy(readOrigins),
  /** Proxies whose `X-Forwarded-For` counts: addresses and ranges (comma separated), or `*` for whoever connects. Empty: nobody's. */
  TRUSTED_PROXY: readBy(parseTrustedProxies),

  /** Who may make an account: `invited` (with a link, or from a provider that lets people in) or `open` (everybody). */
  SIGN_UP: z.enum(['invited', 'open']).default('invited'),
  /** Mail server, `smtp://user:password@host:587` or `smtps://…`. Empty: no mail is sent, and what needs it is off. */
  SMTP_URL: z
    .string()
    .regex(/^smtps?:\/\/./, 'must be an smtp:// or smtps:// URL')
    .optional(),
  /** Sender of all mail, `Name <address>` or the address alone. */
  MAIL_FROM: z.string().optional(),
  /** OAuth client at Google; its redirect URI is `PUBLIC_WEB_URL` and `/api/auth/callback/google`, likewise below. */
  GOOGLE_CLIENT_ID: z.string().optional(),
  /** Its secret. */
  GOOGLE_CLIENT_SECRET: z.string().optional(),
  /** Google's issuer. */
  GOOGLE_ISSUER_URL: baseUrl('https://accounts.google.com'),
  /** OAuth app at GitHub. */
  GITHUB_CLIENT_ID: z.string().optional(),
  /** Its secret. */
  GITHUB_CLIENT_SECRET: z.string().optional(),
  /** GitHub, or an Enterprise Server. */
  GITHUB_BASE_URL: baseUrl('https://github.com'),
  /** Its API; of an Enterprise Server `https://<host>/api/v3`. */
  GITHUB_API_URL: baseUrl('https://api.github.com'),
  /** Issuer of any OpenID Connect provider; its discovery document lies below it. The callback ends in `/oidc`. */
  OIDC_ISSUER: httpUrl.optional(),
  /** Client there. */
  OIDC_CLIENT_ID: z.string().optional(),
  /** Its secret. */
  OIDC_CLIENT_SECRET: z.string().optional(),
  /** What the button says. */
  OIDC_NAME: z.string().default('Single sign-on'),
  /** Whoever the provider knows becomes a member of the default organization with this role. Empty: an invitation is needed. */
  OIDC_ROLE: z.enum(['admin', 'member', 'viewer']).optional(),

  /** Postgres 15–18 with pgvector. Empty: the embedded database in `LOBU_DATA_DIR`. */
  DATABASE_URL: postgresUrl.optional(),
  /** A direct connection for LISTEN and migrations, when `DATABASE_URL` is a transaction pooler. */
  DATABASE_DIRECT_URL: postgresUrl.optional(),
  /** Connections of this replica's pool, the LISTEN connection not counted. */
  DATABASE_POOL_MAX: count(10, 2, 500),
  /** Folder of the embedded database and of development secrets. */
  LOBU_DATA_DIR: z.string().default('./.lobu'),
  /** Any value: `serve` does not migrate. `migrate` ignores it. */
  SKIP_MIGRATIONS: z.string().optional(),

  /** Signs session tokens. At least 32 characters. */
  JWT_SECRET: z.string().optional(),
  /** Signs browser sessions. At least 32 characters. */
  BETTER_AUTH_SECRET: z.string().optional(),
  /** Seals stored secrets. At least 32 characters, no comma. Empty: derived from the two above. See docs/secrets.md. */
  ENCRYPTION_KEY: z
    .string()
    .trim()
    .regex(/^[^,]*$/, 'must not contain a comma')
    .optional(),
  /** Earlier values of `ENCRYPTION_KEY`, comma separated: they open what they have sealed, and seal nothing new. */
  ENCRYPTION_KEYS_OLD: z.string().default(''),

  /** One organization is all that there is: nobody makes a second one. */
  SINGLE_ORGANIZATION: flag.default(false),
  /** Entries of the audit log are removed after this long, where an organization has no setting of its own. */
  AUDIT_KEEP_DAYS: count(365, 1, 36_500),

  /** How long a claimed run stays claimed without a renewal; the bound on noticing a dead replica. */
  RUN_LEASE_SECONDS: seconds(15, 1, 600),
  /** Tries of one run before it ends as failed. */
  RUN_ATTEMPTS_MAX: count(3, 1, 20),
  /** A turn is ended as failed after this long. */
  RUN_SECONDS_MAX: seconds(1800, 1),
  /** A turn that writes more characters than this is ended as failed; what it wrote stays. */
  TURN_CHARS_MAX: count(2_000_000, 100, 4_000_000),
  /** How often the tables are read although no doorbell rang. */
  QUEUE_POLL_SECONDS: seconds(1, 0.05, 60),
  /** Messages that may wait in one conversation; more are answered 429. */
  QUEUE_DEPTH_MAX: count(100, 1, 10_000),
  /** Unfinished messages of one organization, waiting and running, in all its conversations; more are answered 429. */
  ORG_QUEUE_MAX: count(10_000, 1),
  /** Runs of one organization that may be active at once over all replicas. */
  ORG_RUNS_MAX: count(200, 1),
  /** Requests that one organization may make in a minute over all replicas. Empty or 0: as many as it likes. docs/limits.md */
  ORG_REQUESTS_PER_MINUTE: count(0, 0, 100_000_000),
  /** The same for one API key. */
  KEY_REQUESTS_PER_MINUTE: count(0, 0, 100_000_000),

  /** Requests that this replica works on at once, streams and health not counted, and as many to sign in; more are answered 503. */
  REQUESTS_MAX: count(2_000, 1, 100_000),
  /** Connections of clients to this replica, those of streams included; on more every request is answered 503. */
  CONNECTIONS_MAX: count(30_000, 10, 1_000_000),

  /** Open event streams of this replica; more are answered 503. */
  STREAMS_MAX: count(20_000),
  /** Open streams of one conversation on this replica; the oldest is closed when one more comes. */
  STREAMS_PER_CONVERSATION_MAX: count(50, 1, 10_000),
  /** A `ping` goes out after this long; clients give up after 60 s of silence. */
  STREAM_PING_SECONDS: seconds(15, 1, 30),
  /** Bytes that may wait for a slow reader. What comes then it gets from the log; one that takes nothing for 30 s is cut off. */
  STREAM_BUFFER_BYTES_MAX: count(1_048_576, 524_288, 67_108_864),
  /** How long after its end a turn can be streamed again word by word. Its result is kept with the run. */
  LOG_KEEP_SECONDS: seconds(600, 1, 31_536_000),
  /** How long work that was given up can be looked at and replayed; 30 days. */
  DEAD_LETTERS_KEEP_SECONDS: seconds(2_592_000, 1, 315_360_000),
  /** A webhook that could not be called for this long, tried or not, becomes a dead letter; a day. */
  WEBHOOKS_KEEP_SECONDS: seconds(86_400, 60, 31_536_000),
  /** Conversations are removed, with transcript, runs and files, after so many days without a message. 0: never. */
  CONVERSATIONS_KEEP_DAYS: count(0, 0, 36_500),
  /** What was used by day, agent, model and user is kept so long; sums of months stay. */
  USAGE_KEEP_DAYS: count(1096, 62, 36_500),
  /** Expired browser sessions, links and codes of sign-in, OAuth tokens and device codes stay so long after their end. */
  SIGN_IN_KEEP_SECONDS: seconds(86_400, 0, 31_536_000),
  /** Invitations that were accepted or withdrawn or have expired are removed after so many days. */
  INVITATIONS_KEEP_DAYS: count(30, 0, 36_500),
  /** The same for API keys that were revoked or have expired. */
  KEYS_KEEP_DAYS: count(90, 0, 36_500),

  /** Worker processes of this replica. Empty: (memory limit of the container − 1 GiB) / 48 MiB, or what its `pids.max` allows. */
  WORKERS_MAX: z.coerce.number().int().min(1).max(10_000).optional(),
  /** Turns that this replica runs at once. Empty: 25 for each core that the container may use. */
  WORKERS_BUSY_MAX: z.coerce.number().int().min(1).max(10_000).optional(),
  /** Started workers that wait for a conversation. */
  WORKERS_WARM: z.coerce.number().int().min(0).max(100).default(1),
  /** An idle worker of a conversation is stopped after this long. */
  WORKER_IDLE_SECONDS: seconds(300),
  /** A started worker must report ready within this time. */
  WORKER_START_SECONDS: seconds(20, 1, 300),
  /** A worker that says nothing, not even that it is alive, for this long is killed. */
  WORKER_SILENCE_SECONDS: seconds(45, 1, 3600),
  /** Resident memory of one worker in MiB; one that passes it is killed. */
  WORKER_MEMORY_MB: count(512, 64, 65_536),
  /** Model calls in one turn. */
  WORKER_STEPS_MAX: count(24, 1, 1000),
  /** Tokens that one model call may write. */
  WORKER_OUTPUT_TOKENS_MAX: count(8192, 16, 1_000_000),

  /** `provider/model` for agents that name none. Empty: the first provider with a key, else `demo/demo`. */
  DEFAULT_MODEL: z
    .string()
    .regex(/^(anthropic|openai|openai-compatible|google|demo)\/.+$/, 'must be provider/model')
    .optional(),
  /** Key of Anthropic. */
  ANTHROPIC_API_KEY: z.string().optional(),
  /** Where Anthropic's API is, its version path included; likewise below. */
  ANTHROPIC_BASE_URL: baseUrl('https://api.anthropic.com/v1'),
  /** Key of OpenAI. */
  OPENAI_API_KEY: z.string().optional(),
  /** Where OpenAI's API is. */
  OPENAI_BASE_URL: baseUrl('https://api.openai.com/v1'),
  /** Key of the server below, where it wants one. */
  OPENAI_COMPATIBLE_API_KEY: z.string().optional(),
  /** Any server that speaks OpenAI's chat completions; name its model in `DEFAULT_MODEL` or in an agent. */
  OPENAI_COMPATIBLE_BASE_URL: httpUrl.transform((url) => url.replace(/\/+$/, '')).optional(),
  /** Key of Google's Gemini API. Wins over the two names below. */
  GOOGLE_GENERATIVE_AI_API_KEY: z.string().optional(),
  /** The same. */
  GOOGLE_API_KEY: z.string().optional(),
  /** The same. */
  GEMINI_API_KEY: z.string().optional(),
  /** Where the Gemini API is. */
  GOOGLE_BASE_URL: baseUrl('https://generativelanguage.googleapis.com/v1beta'),

  /** JSON file of model prices that come before the built-in ones. docs/limits.md */
  MODEL_PRICES_FILE: z.string().optional(),

  /** Hosts (`host` or `host:port`, comma separated) that webhooks may call although their address is not public. */
  WEBHOOK_ALLOWED_HOSTS: z.string().default(''),

  /** How long SIGTERM first goes on as before, while `/health/ready` says 503 and balancers move on. Empty: 10 in production, else 0. */
  SHUTDOWN_WAIT_SECONDS: z.coerce.number().min(0).max(600).optional(),
  /** How long running turns may then go on before they are handed over. */
  SHUTDOWN_GRACE_SECONDS: z.coerce.number().min(0).max(3600).default(25),
  /** Port on which Prometheus finds `/metrics`, apart from the API; 0 takes any free one. Empty: no metrics. docs/observability.md */
  METRICS_PORT: z.coerce.number().int().min(0).max(65_535).optional(),
  /** Address of that port. Empty: as `HOST`. */
  METRICS_HOST: z.string().optional(),
  /** Bearer token that a scraper must send. Empty: none, and the port must not be reachable from outside. */
  METRICS_AUTH_TOKEN: z.string().optional(),
  /** Collector to which traces are sent (OTLP); `/v1/traces` is added for http. Empty: no traces. docs/observability.md */
  OTEL_EXPORTER_OTLP_ENDPOINT: httpUrl.optional(),
  /** The same for traces alone, taken as it is. */
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: httpUrl.optional(),
  /** What the collector speaks: `http/protobuf`, `http/json` or `grpc`. */
  OTEL_EXPORTER_OTLP_PROTOCOL: z.enum(OTLP_PROTOCOLS).default('http/protobuf'),
  /** The same for traces alone. Empty: as above. */
  OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: z.enum(OTLP_PROTOCOLS).optional(),
  /** Headers for the collector, `name=value` (comma separated, percent-encoded), such as its key. */
  OTEL_EXPORTER_OTLP_HEADERS: z.string().default(''),
  /** The same for traces alone. */
  OTEL_EXPORTER_OTLP_TRACES_HEADERS: z.string().default(''),
  /** Name of this service in traces. */
  OTEL_SERVICE_NAME: z.string().default('lobu'),
  /** Which traces are recorded: `always_on`, `always_off`, `traceidratio`, or one of these behind `parentbased_`. */
  OTEL_TRACES_SAMPLER: z.enum(SAMPLERS).default('parentbased_always_on'),
  /** Share of the traces that a `traceidratio` records, 0 to 1. */
  OTEL_TRACES_SAMPLER_ARG: z.coerce.number().min(0).max(1).default(1),
  /** Milliseconds for which spans collect before they are sent. */
  OTEL_BSP_SCHEDULE_DELAY: count(5_000, 10, 60_000),
  /** Spans that may wait to be sent; more are dropped. */
  OTEL_BSP_MAX_QUEUE_SIZE: count(2_048, 1, 1_000_000),
  /** `true` switches traces off whatever else is set. */
  OTEL_SDK_DISABLED: flag.default(false),
  /** Where unexpected errors are reported, to Sentry or what speaks its protocol. Empty: nowhere. docs/observability.md */
  SENTRY_DSN: httpUrl.optional(),
  /** What the reports call this installation. Empty: `NODE_ENV`. */
  SENTRY_ENVIRONMENT: z.string().optional(),
  /** Lines below this level are not written. */
  LOG_LEVEL: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
  /** Readable lines instead of JSON. Empty: readable when standard output is a terminal. */
  LOG_PRETTY: flag.optional(),
})

export type Env = z.infer<typeof Env>
