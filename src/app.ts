import { join } from 'node:path'
import { createModelProxy } from './adapters/llm/proxy.ts'
import { resolveModel } from './adapters/llm/resolve-model.ts'
import { createGuardedFetch } from './adapters/outbound/guarded-fetch.ts'
import type { Config } from './config.ts'
import { type Database, openDatabase } from './db/client.ts'
import { createNotifier } from './db/notify.ts'
import { createAuthenticator } from './domain/accounts/authenticate.ts'
import { createSessionTokens } from './domain/accounts/session-token.ts'
import type { LocalRunner } from './domain/messages/post.ts'
import { createRetention } from './domain/retention.ts'
import { createRunSweeper } from './domain/runs/sweep.ts'
import { checkWebhookUrl } from './domain/webhooks/check-url.ts'
import { createWebhookDeliverer } from './domain/webhooks/deliver.ts'
import { webhookSigningKey } from './domain/webhooks/signature.ts'
import { createSignals, hearSignals } from './doorbells.ts'
import { createGatewayApp } from './http/app.ts'
import { createHttpServer } from './http/server.ts'
import { AppError, errorLine } from './lib/errors.ts'
import { newId } from './lib/ids.ts'
import type { Logger } from './lib/logger.ts'
import { migrationsFolder } from './migrations/folder.ts'
import { schemaState } from './migrations/run.ts'
import { createPublisher } from './queue/publisher.ts'
import { createReplica } from './queue/replica.ts'
import { createReadiness, type Phase } from './readiness.ts'
import { createSseManager } from './sse/manager.ts'
import { createPresence } from './sse/presence.ts'
import { createTail } from './sse/tail.ts'
import { VERSION } from './version.ts'
import { builtCacheDir, createProcessLauncher, findWorkerEntry } from './workers/launcher.ts'
import { createWorkerPool } from './workers/pool.ts'
import { CONTINUE_NOTE } from './workers/protocol.ts'
import { createReplyWriter } from './workers/replies.ts'
import { createRunner } from './workers/runner.ts'

/** Doorbells make passes prompt; this often the tables are read even so. */
const LISTENING_POLL_MS = 5_000
const SWEEP_MS = 1_000
const RETENTION_MS = 15_000
/** How long requests that are under way may take when the server stops. */
const HTTP_GRACE_MS = 5_000
/** How often a replica that waits for its schema looks again. */
const SCHEMA_CHECK_MS = 2_000

export interface Gateway {
  /** Listens, so that health can be asked for; everything else is answered 503 until `work`. Resolves with the port. */
  listen(): Promise<number>
  /**
   * Waits until the database's schema is not behind this build, then takes work. Resolves when this replica is ready,
   * or was stopped before it could be.
   */
  work(): Promise<void>
  /** Stops in order (I12). May be called twice, or before the rest. */
  stop(): Promise<void>
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

/** What is made from what, top to bottom. `secrets` are complete here: given by the environment, or development's own. */
export function createGateway(
  { config, db, log }: { config: Config; db: Database; log: Logger },
  secrets: { jwt: string },
): Gateway {
  const replica = newId('replica')
  const { sql } = db
  const { queue, sse: streams, workers } = config
  let phase: Phase = 'starting'
  let schema: Awaited<ReturnType<typeof schemaState>> | null = null

  const notifier = createNotifier({ sql, log })
  const signals = createSignals({ notifier, parts: () => ({ tail, runner }) }, { replica })
  const pollMs = () => (db.listening() ? LISTENING_POLL_MS : queue.pollMs)

  const tail = createTail({ sql, log }, { pollMs })
  const presence = createPresence({ sql, log })
  const sse = createSseManager({ sql, tail, log }, { ...streams })

  const publisher = createPublisher({ sql, log, onPublished: signals.published }, { pollMs: queue.pollMs })
  const replies = createReplyWriter({ sql, log, onInserted: publisher.ring })
  const modelProxy = createModelProxy({ log, providers: config.models.providers, continueNote: CONTINUE_NOTE })
  const chooseModel = (name: string | null, provider?: string) =>
    resolveModel(name, { defaultModel: config.models.defaultModel, provider, models: modelProxy.models() })

  const entry = findWorkerEntry()
  const launcher = createProcessLauncher(
    { log },
    {
      entry,
      args: [chooseModel(null).provider],
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
    { sql, log, signals, pool, replies, resolveModel: chooseModel },
    {
      ...{ replica, leaseMs: queue.leaseMs, pollMs: queue.pollMs, attemptsMax: queue.attemptsMax },
      ...{ runMsMax: queue.runMsMax, organizationRunsMax: queue.orgRunsMax },
      limits: { stepsMax: workers.stepsMax, outputTokensMax: workers.outputTokensMax },
    },
  )
  const sweeper = createRunSweeper({ sql, log, signals }, { everyMs: SWEEP_MS, attemptsMax: queue.attemptsMax })
  const retention = createRetention(
    { sql, log },
    { everyMs: RETENTION_MS, logKeepMs: streams.keepMs, deadLettersKeepMs: queue.deadLettersKeepMs },
  )
  const webhooks = createWebhookDeliverer(
    { sql, log, fetch: createGuardedFetch(config.webhooks), signingSecret: secrets.jwt },
    { pollMs: queue.pollMs },
  )
  const heartbeat = createReplica({ sql, log }, { id: replica, version: VERSION, leaseMs: queue.leaseMs })

  const loops = [publisher, tail, presence, heartbeat, sweeper, retention, webhooks, ...runner.loops]
  const tokens = createSessionTokens(secrets.jwt)
  const localRunner: LocalRunner = {
    reserve: runner.reserve,
    settle: runner.settle,
    hasWorker: (organizationId, conversationId) => pool.has(`${organizationId}/${conversationId}`),
  }
  const app = createGatewayApp({
    ...{ log, sql, sse, presence, signals, tokens, resolveModel: chooseModel, runner: localRunner, version: VERSION },
    publicUrl: config.http.publicUrl,
    authenticator: createAuthenticator({ sql, tokens }),
    post: {
      ...{ replica, leaseMs: queue.leaseMs, depthMax: queue.depthMax },
      ...{ organizationMax: queue.orgRunsMax, workerIdleMs: workers.idleMs },
    },
    checkWebhookUrl: (url) => checkWebhookUrl(url, config.webhooks),
    webhookKey: (organizationId) => webhookSigningKey(secrets.jwt, organizationId),
    isStarting: () => phase === 'starting',
    readiness: createReadiness({
      ...{ db, loops, phase: () => phase, schema: () => schema, workers: pool.snapshot, streams: sse.count },
      facts: { service: 'lobu', version: VERSION, replica, model: config.models.defaultModel },
    }),
  })
  const server = createHttpServer({ app, log }, config.http)

  const stopping = new AbortController()
  let stopHearing = async () => {}
  let stopped: Promise<void> | undefined

  async function waitForSchema() {
    for (;;) {
      schema = await lookAtSchema()
      if (schema?.behind.length === 0) return
      if (schema) log.error({ behind: schema.behind }, 'the database schema is behind this release: run "lobu migrate"')
      await new Promise((resolve) => setTimeout(resolve, SCHEMA_CHECK_MS))
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
    await heartbeat.register()
    await Promise.all([sse.start(), notifier.start(), pool.start()])
    await Promise.all([...loops.map((loop) => loop.start()), runner.start()])
    stopHearing = await hearSignals(db, { tail, runner }, { replica })
    if (phase === 'starting') phase = 'ok'
  }

  async function stopInOrder() {
    phase = 'draining'
    stopping.abort()
    await runner.drain(config.shutdown.graceMs)
    await sse.stop()
    await server.stop({ graceMs: HTTP_GRACE_MS })
    await Promise.all([pool.stop(), replies.stop()])
    await modelProxy.close()
    await Promise.all(loops.map((loop) => loop.stop()))
    await stopHearing()
    await notifier.stop()
    await heartbeat.leave().catch(() => {})
    await db.close()
  }

  return {
    listen: server.start,
    work,
    stop() {
      stopped ??= stopInOrder()
      return stopped
    },
  }
}
