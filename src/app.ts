import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { modelProviders } from './adapters/llm/index.ts'
import { createModelProxy } from './adapters/llm/proxy.ts'
import { resolveModel } from './adapters/llm/resolve-model.ts'
import { createMailTransport } from './adapters/mail/index.ts'
import { createGuardedCall } from './adapters/outbound/guarded-call.ts'
import { createGuardedFetch } from './adapters/outbound/guarded-fetch.ts'
import type { Config } from './config.ts'
import { type Database, openDatabase } from './db/client.ts'
import { createNotifier } from './db/notify.ts'
import { scopeToOrganization } from './db/tenant.ts'
import { explainMissingTenantRole } from './db/tenant-role.ts'
import { whenDatabaseIsThere } from './db/wait.ts'
import { enforceEverywhere } from './domain/accounts/access.ts'
import { createAccessTokens } from './domain/accounts/access-token.ts'
import { createAuthenticator } from './domain/accounts/authenticate.ts'
import { createPersonLookup, createSessionCookies } from './domain/accounts/browser-session.ts'
import { createSessionTokens } from './domain/accounts/session-token.ts'
import { createKeyUse } from './domain/keys/note-use.ts'
import { createBacklog } from './domain/limits/backlog.ts'
import { createBudgets } from './domain/limits/budget.ts'
import { createLimitBook } from './domain/limits/limits.ts'
import { createRateLimiter } from './domain/limits/rate-limiter.ts'
import type { LocalRunner } from './domain/messages/post.ts'
import { acceptInvitation } from './domain/organizations/accept-invitation.ts'
import { mailInvitation } from './domain/organizations/mail-invitation.ts'
import { createRetention } from './domain/retention.ts'
import { noteEndsSeen } from './domain/runs/ends-seen.ts'
import { createRunSweeper } from './domain/runs/sweep.ts'
import { checkEncryptionKeys } from './domain/secrets/canary.ts'
import { createModelChooser } from './domain/secrets/choose-model.ts'
import { createSecretsEnvelope, type EncryptionSettings } from './domain/secrets/keys.ts'
import { createProviderKeys } from './domain/secrets/provider-keys.ts'
import { readSecrets } from './domain/secrets/store.ts'
import { COOKIE_PREFIX } from './domain/sign-in/better-auth.ts'
import { createEnvironmentProviders, setUpOwner } from './domain/sign-in/environment.ts'
import { findOpenInvitation } from './domain/sign-in/invitation-permit.ts'
import { createAccountMails } from './domain/sign-in/mails.ts'
import { createOAuthServer } from './domain/sign-in/oauth-server.ts'
import { describePerson } from './domain/sign-in/reader.ts'
import { createSignIn } from './domain/sign-in/sign-in.ts'
import { createPrices } from './domain/usage/prices.ts'
import { createUsageRollUp } from './domain/usage/roll-up.ts'
import { checkOutsideUrl, checkWebhookUrl } from './domain/webhooks/check-url.ts'
import { createWebhookDeliverer } from './domain/webhooks/deliver.ts'
import { webhookSigningKey } from './domain/webhooks/signature.ts'
import { createSignals, GAPS_MS, hearSignals } from './doorbells.ts'
import { reportGauges } from './gauges.ts'
import { createGatewayApp } from './http/app.ts'
import { createHttpServer, type HttpServer } from './http/server.ts'
import { createWaitingRoom } from './http/waiting-room.ts'
import { AppError, errorLine } from './lib/errors.ts'
import { newId } from './lib/ids.ts'
import type { Logger } from './lib/logger.ts'
import type { Redactions } from './lib/redactions.ts'
import { sleep } from './lib/sleep.ts'
import { migrationsFolder } from './migrations/folder.ts'
import { schemaState } from './migrations/run.ts'
import { createPublisher } from './queue/publisher.ts'
import { createReplica } from './queue/replica.ts'
import { createReadiness, type Phase } from './readiness.ts'
import { createSseManager } from './sse/manager.ts'
import { createPresence } from './sse/presence.ts'
import { createTail } from './sse/tail.ts'
import type { Metrics } from './telemetry/metrics.ts'
import type { Tracer } from './telemetry/tracer.ts'
import { VERSION } from './version.ts'
import { builtCacheDir, createProcessLauncher, findWorkerEntry } from './workers/launcher.ts'
import { createWorkerPool } from './workers/pool.ts'
import { CONTINUE_NOTE } from './workers/protocol.ts'
import { createReplyWriter } from './workers/replies.ts'
import { createRunner } from './workers/runner.ts'
import { watchModelCall } from './workers/watch-model-call.ts'

export { whenDatabaseIsThere }

/** Doorbells make passes prompt; this often the tables are read even so. */
const LISTENING_POLL_MS = 5_000
const SWEEP_MS = 1_000
const USAGE_MS = 2_000
/** How often a replica that waits for its schema looks again. */
const SCHEMA_CHECK_MS = 2_000

export interface Gateway {
  /**
   * Waits until the database's schema is not behind this build, then takes work. Resolves when this replica is ready,
   * or was stopped before it could be. Rejects when it lacks a key of the stored secrets.
   */
  work(): Promise<void>
  /**
   * Stops in order (I12), within `config.shutdown.totalMs` unless something hangs. May be called twice, or before the rest.
   * `waitMs: 0` for who has no balancer in front of it.
   */
  stop(options?: { waitMs: number }): Promise<void>
  /** Ends all waits of the stop: turns are handed over at once, and requests under way are cut. */
  hurry(): void
}

/** The HTTP server, which says why this replica is not ready as long as there is no gateway behind it. */
export function createFront({ config, log, reason }: { config: Config; log: Logger; reason(): string }): HttpServer {
  return createHttpServer({ app: createWaitingRoom({ log, version: VERSION, reason }), log }, config.http)
}

/** Opens the database that the settings name. */
export function openGatewayDatabase(config: Config, log: Logger): Promise<Database> {
  return openDatabase({
    ...config.db,
    dataDir: config.dataDir,
    templateFile: join(import.meta.dirname, 'embedded-template.tar'),
    log,
  })
}

export interface GatewayDeps {
  config: Config
  db: Database
  log: Logger
  redactions: Redactions
  front: HttpServer
  telemetry: { metrics: Metrics; tracer: Tracer }
}

/** What is made from what, top to bottom. `secrets` are complete here: given by the environment, or development's own. */
export function createGateway(
  { config, db, log, redactions, front, telemetry: { metrics, tracer } }: GatewayDeps,
  secrets: EncryptionSettings,
): Gateway {
  const replica = newId('replica')
  const { sql } = db
  const { queue, sse: streams, workers } = config
  let phase: Phase = 'starting'
  let schema: Awaited<ReturnType<typeof schemaState>> | null = null
  /** Why the database does not wall organizations off from each other by itself; null when it does. */
  let wallFault: string | null = null

  const notifier = createNotifier({ sql, log }, { gapsMs: GAPS_MS })
  const signals = createSignals(
    { notifier, metrics, parts: () => ({ tail, runner, authenticator: access }) },
    { replica },
  )
  const pollMs = () => (db.listening() ? LISTENING_POLL_MS : queue.pollMs)

  const tail = createTail({ sql, log }, { pollMs })
  const presence = createPresence({ sql, log, noteEndsSeen: (seen) => noteEndsSeen(sql, seen) })
  const sse = createSseManager({ sql, tail, log, metrics }, { ...streams })

  const publisher = createPublisher({ sql, log, tracer, onPublished: signals.published }, { pollMs: queue.pollMs })
  const replies = createReplyWriter({ sql, log, onInserted: publisher.ring })
  const scope = (organizationId: string) => (wallFault === null ? scopeToOrganization(sql, organizationId) : sql)
  const envelope = createSecretsEnvelope(secrets)
  const providerKeys = createProviderKeys({ scope, envelope, redactions })
  const modelProxy = createModelProxy({
    log,
    providers: config.models.providers,
    async ownKey(run) {
      const owner = runner.ownerOf(run)
      if (!owner) throw new AppError('forbidden', 'This run is over, or went on elsewhere.')
      return providerKeys.find(owner, run.provider)
    },
    continueNote: CONTINUE_NOTE,
    watch: (call) => watchModelCall({ metrics, runner }, call),
  })
  const modelOf = (name: string | null, more: { own?: ReadonlySet<string>; provider?: string | undefined } = {}) =>
    resolveModel(name, {
      defaultModel: config.models.defaultModel,
      provider: more.provider,
      models: modelProxy.models(more.own),
    })
  const chooseModel = createModelChooser({ choose: modelOf, providerKeys })

  const limits = createLimitBook({ sql }, config.limits)
  const budgets = createBudgets({ sql, limits })
  const { pricesFile } = config.models
  const costOf = createPrices(pricesFile === undefined ? undefined : readFileSync(pricesFile, 'utf8'))

  const entry = findWorkerEntry()
  const launcher = createProcessLauncher(
    { log },
    {
      entry,
      args: [modelOf(null).provider],
      memoryMb: workers.memoryMb,
      cacheDirs: [builtCacheDir(entry), join(config.dataDir, 'worker-cache')],
    },
  )
  const pool = createWorkerPool(
    {
      launcher,
      log,
      requests: {
        saveStep: (step) => runner.requests.saveStep(step),
        takeSteer: (run) => runner.requests.takeSteer(run),
        model: modelProxy,
      },
    },
    { ...workers },
  )
  const runner = createRunner(
    { sql, log, signals, pool, replies, budgets, costOf, metrics, tracer, resolveModel: chooseModel },
    {
      ...{ replica, leaseMs: queue.leaseMs, pollMs: queue.pollMs, attemptsMax: queue.attemptsMax },
      ...{ runMsMax: queue.runMsMax, textCharsMax: queue.turnCharsMax, organizationRunsMax: queue.orgRunsMax },
      limits: { stepsMax: workers.stepsMax, outputTokensMax: workers.outputTokensMax },
    },
  )
  const sweeper = createRunSweeper({ sql, log, signals }, { everyMs: SWEEP_MS, attemptsMax: queue.attemptsMax })
  const retention = createRetention({ sql, log, metrics }, config.retention)
  const webhooks = createWebhookDeliverer(
    { sql, log, metrics, tracer, fetch: createGuardedFetch(config.webhooks), signingSecret: secrets.jwt },
    { pollMs: queue.pollMs },
  )
  const usage = createUsageRollUp({ sql, log }, { everyMs: USAGE_MS })
  const heartbeat = createReplica({ sql, log }, { id: replica, version: VERSION, leaseMs: queue.leaseMs })

  const keyUse = createKeyUse({ sql, log })

  const loops = [publisher, tail, presence, heartbeat, sweeper, webhooks, keyUse, usage, ...runner.loops]
  const tokens = createSessionTokens(secrets.jwt)
  const localRunner: LocalRunner = {
    reserve: runner.reserve,
    settle: runner.settle,
    hasWorker: (organizationId, conversationId) => pool.has(`${organizationId}/${conversationId}`),
  }
  const { publicUrl, publicUrlFault, trustedOrigins } = config.http
  const cookies = createSessionCookies({ secret: secrets.betterAuth, publicUrl, prefix: COOKIE_PREFIX })
  const people = createPersonLookup({ sql, cookies })
  const accessTokens = createAccessTokens({ sql })
  const authenticator = createAuthenticator({ sql, tokens, people, accessTokens, noteKeyUse: keyUse.note })
  const mail = createMailTransport(config.accounts)
  const signIn = createSignIn(
    {
      ...{ sql, orm: db.orm, log, accessChanged: signals.accessChanged },
      accessLost: () => enforceEverywhere(signals),
      mails: mail && createAccountMails({ transport: mail, log }),
      providers: createEnvironmentProviders(
        { call: createGuardedCall({ allowedHosts: [], anyAddress: true }) },
        config.accounts,
      ),
      callOutside: createGuardedCall(config.webhooks),
      readClientSecret: async (organizationId, providerId) => {
        const place = { organizationId, agentId: '', kind: 'oidc' as const, names: [providerId] }
        const [secret] = await readSecrets(sql, envelope, place)
        return secret?.value ?? null
      },
    },
    {
      ...{ publicUrl, trustedOrigins, secret: secrets.betterAuth, signUp: config.accounts.signUp },
      requireVerifiedEmail: mail !== null && config.accounts.signUp === 'open',
    },
  )
  /** What is remembered of callers, their keys and limits, and of how people sign in, and does not count any more after a change. */
  const access = {
    forget() {
      authenticator.forget()
      providerKeys.forget()
      limits.forget()
      signIn.forget()
      sse.recheck()
    },
  }
  const readiness = createReadiness({
    ...{
      db,
      loops,
      retention,
      phase: () => phase,
      schema: () => schema,
      wallFault: () => wallFault,
      publicUrlFault,
      workers: pool.snapshot,
      streams: sse.count,
    },
    facts: { service: 'lobu', version: VERSION, replica, model: config.models.defaultModel },
  })
  reportGauges({
    ...{ metrics, db, loops: [...loops, ...retention], readiness, version: VERSION },
    ...{ workers: pool.snapshot, streams: sse.count, streamsMax: streams.streamsMax },
  })
  const app = createGatewayApp({
    ...{ log, metrics, tracer, sse, presence, signals, tokens, version: VERSION },
    ...{ resolveModel: chooseModel, runner: localRunner },
    ...{ authenticator, scope, envelope, redactions },
    ...{ backlog: createBacklog({ sql }, { max: queue.orgDepthMax }), requestsMax: config.http.requestsMax },
    ...{ budgets, rates: createRateLimiter({ sql, limits }), defaultLimits: config.limits },
    providers: modelProviders.filter(({ variables }) => variables !== null).map(({ id }) => id),
    singleOrganization: config.accounts.singleOrganization,
    auditKeepDays: config.accounts.auditKeepDays,
    pool: sql,
    ...{ publicUrl, trustedOrigins, trustedProxies: config.http.trustedProxies, sessionCookie: cookies.name, signIn },
    accessTokens,
    oauth: createOAuthServer({ handle: signIn.handle, sql, signals }, { publicUrl }),
    findReader: async (cookie) => describePerson(sql, await people.identify(cookie)),
    accounts: {
      options: async (organizationSlug) => ({
        ...{ providers: await signIn.offers(organizationSlug), mail: mail !== null, signUp: config.accounts.signUp },
      }),
      setUp: (args) => setUpOwner({ sql, signIn }, args),
      findInvitation: (token) => findOpenInvitation(sql, token),
      accept: (args) => acceptInvitation({ sql, signals }, args),
      identify: people.identify,
    },
    post: {
      ...{ replica, leaseMs: queue.leaseMs, depthMax: queue.depthMax },
      ...{ organizationMax: queue.orgRunsMax, workerIdleMs: workers.idleMs },
    },
    checkWebhookUrl: (url) => checkWebhookUrl(url, config.webhooks),
    checkIssuer: (url) => checkOutsideUrl('issuer', url, config.webhooks),
    mailInvitation: mail ? (invitation) => mailInvitation(mail, invitation) : undefined,
    webhookKey: (organizationId) => webhookSigningKey(secrets.jwt, organizationId),
    isStarting: () => phase === 'starting',
    readiness,
  })
  front.serveWith(app)

  const stopping = new AbortController()
  const hurrying = new AbortController()
  let stopHearing = async () => {}
  let stopped: Promise<void> | undefined

  async function waitForSchema() {
    for (;;) {
      schema = await lookAtSchema()
      if (schema?.behind.length === 0) {
        if (schema.ahead) log.warn('the database schema is of a newer release, which one release back is made to stand')
        return
      }
      if (schema) log.error({ behind: schema.behind }, 'the database schema is behind this release: run "lobu migrate"')
      await sleep(SCHEMA_CHECK_MS, stopping.signal)
      if (stopping.signal.aborted) return
    }
  }

  /** Null while the database is away: whoever has waited for the schema so far waits for that as well. */
  function lookAtSchema() {
    return schemaState(sql, migrationsFolder()).catch((error: unknown) => {
      if (!(error instanceof AppError)) throw error
      log.warn({ err: errorLine(error) }, 'the database went away before its schema was current')
      return null
    })
  }

  async function work() {
    await waitForSchema()
    if (stopping.signal.aborted) return
    const away = {
      forMs: Number.POSITIVE_INFINITY,
      onAway: (reason: string) => log.warn({ reason }, 'waiting for the database'),
    }
    await whenDatabaseIsThere(async () => {
      await checkEncryptionKeys({ sql, envelope })
      wallFault = await explainMissingTenantRole(sql)
      await heartbeat.register()
    }, away)
    if (wallFault !== null) log.warn(wallFault)
    await Promise.all([sse.start(), notifier.start(), pool.start()])
    await Promise.all([...[...loops, ...retention].map((loop) => loop.start()), runner.start()])
    stopHearing = await hearSignals(db, { tail, runner, authenticator: access }, { replica })
    if (phase === 'starting') phase = 'ok'
  }

  async function stopInOrder({ waitMs }: { waitMs: number }) {
    const { graceMs, requestsEndMs } = config.shutdown
    const requestsEndAt = performance.now() + requestsEndMs
    const { signal } = hurrying
    // Nobody was sent to one that has not been ready.
    const isKnown = phase === 'ok'
    phase = 'draining'
    stopping.abort()
    front.sendElsewhere()
    if (isKnown) await sleep(waitMs, signal)
    await runner.drain(graceMs, signal)
    await sse.stop()
    await front.stop({ graceMs: Math.max(0, requestsEndAt - performance.now()), signal })
    await Promise.all([pool.stop(), replies.stop()])
    await modelProxy.close()
    await mail?.close()
    await Promise.all([...loops, ...retention].map((loop) => loop.stop()))
    await stopHearing()
    await notifier.stop()
    await heartbeat.leave().catch(() => {})
    await db.close()
  }

  return {
    work,
    stop(options = config.shutdown) {
      stopped ??= stopInOrder(options)
      return stopped
    },
    hurry: () => hurrying.abort(),
  }
}
