import { createFront, createGateway, type Gateway, openGatewayDatabase, whenDatabaseIsThere } from '../app.ts'
import type { Config } from '../config.ts'
import type { Database } from '../db/client.ts'
import { bootstrap, needsBootstrap } from '../domain/accounts/bootstrap.ts'
import { createSetupLink } from '../domain/sign-in/setup.ts'
import { errorLine } from '../lib/errors.ts'
import { createLogger, type Logger } from '../lib/logger.ts'
import { createRedactions } from '../lib/redactions.ts'
import { sleep } from '../lib/sleep.ts'
import { openTelemetry, type Telemetry } from '../telemetry/open.ts'
import { VERSION } from '../version.ts'
import { migrateDatabase } from './migrate.ts'
import { completeSecrets, knownSecrets } from './secrets.ts'

/** A signal so soon behind the first is the same one: `npm` passes on what the terminal has sent to both. */
const ECHO_MS = 500
/** Who asks twice waits for no more than this. */
const HURRY_MS = 3_000

/** A collector that does not answer by then gets nothing more. */
const TELEMETRY_MS = 2_000

/** Runs the gateway until SIGTERM or SIGINT. Resolves with the exit code. */
export async function serve(config: Config): Promise<number> {
  const secrets = completeSecrets(config)
  const redactions = createRedactions(knownSecrets(config, secrets))
  let telemetry: Telemetry | undefined
  const log = createLogger({ ...config.log, redactions, onTrouble: (line) => telemetry?.onTrouble(line) })
  if (config.http.publicUrlFault !== null) log.error(config.http.publicUrlFault)
  warnAboutUnusedModels(config, log)
  // From the first moment on: without a handler the first process of a container does not even see the signal.
  const stop = watchStopSignals(config, log)
  telemetry = await openTelemetry({ log, redactions }, { ...config.telemetry, version: VERSION })
  let reason = 'not looked at yet'
  const front = createFront({ config, log, reason: () => reason })
  const { listen: listenForScrapes } = telemetry
  const listen = once(async () => {
    await listenForScrapes()
    const port = await front.start()
    log.info({ port }, 'listening')
    return port
  })
  const opening = whenDatabaseIsThere(() => openWithSchema(config, log), {
    forMs: Number.POSITIVE_INFINITY,
    async onAway(sentence) {
      reason = sentence
      log.warn({ reason }, 'waiting for the database')
      await listen()
    },
  })
  const db = await Promise.race([opening, stop.asked])
  if (typeof db === 'number') {
    // What was begun is given up half-way, as by kill -9, which both databases stand.
    log.info('stopped')
    return 0
  }
  const gateway = createGateway({ config, db, log, redactions, front, telemetry }, secrets)
  try {
    const port = await listen()
    const work = gateway.work().then(() => announce({ config, db, log }, port))
    const failed = db.failed.then((error) => {
      throw error
    })
    await Promise.race([stop.asked, failed, work.then(() => stop.asked)])
  } catch (error) {
    log.fatal({ err: errorLine(error) }, error instanceof Error ? error.message : 'the gateway failed')
    await stopWithin({ gateway, telemetry }, { config, stop, waitMs: 0 })
    return 1
  }
  await stopWithin({ gateway, telemetry }, { config, stop, waitMs: await stop.asked })
  log.info('stopped')
  return 0
}

function once<T>(work: () => Promise<T>): () => Promise<T> {
  let done: Promise<T> | undefined
  return () => {
    done ??= work()
    return done
  }
}

/** May take minutes: another process may be migrating. */
async function openWithSchema(config: Config, log: Logger): Promise<Database> {
  const db = await openGatewayDatabase(config, log)
  try {
    if (!config.db.skipMigrations) await migrateDatabase(db, log)
    return db
  } catch (error) {
    await db.close()
    throw error
  }
}

/**
 * Stops the gateway in order; what hangs is left behind when its time is over. What is told of the end is told last: figures
 * until the gateway has stopped, then what was not sent yet.
 */
async function stopWithin(
  { gateway, telemetry }: { gateway: Gateway; telemetry: Telemetry },
  { config, stop, waitMs }: { config: Config; stop: StopSignals; waitMs: number },
) {
  const hurried = stop.askedAgain.then(() => {
    gateway.hurry()
    return sleep(HURRY_MS)
  })
  await Promise.race([gateway.stop({ waitMs }), sleep(config.shutdown.totalMs - TELEMETRY_MS), hurried])
  await telemetry.close(TELEMETRY_MS)
}

interface StopSignals {
  /** Resolves at the first SIGTERM or SIGINT, with how long balancers are waited for: Ctrl-C means that there are none. */
  asked: Promise<number>
  /** Resolves when somebody has lost patience. */
  askedAgain: Promise<void>
}

function watchStopSignals({ shutdown }: Config, log: Logger): StopSignals {
  const asked = Promise.withResolvers<number>()
  const again = Promise.withResolvers<void>()
  let askedAt: number | undefined
  const onSignal = (signal: NodeJS.Signals) => {
    if (askedAt === undefined) {
      askedAt = performance.now()
      const waitMs = signal === 'SIGINT' ? 0 : shutdown.waitMs
      log.info({ signal, ...shutdown, waitMs }, 'stopping')
      asked.resolve(waitMs)
    } else if (performance.now() - askedAt > ECHO_MS) {
      log.info({ signal }, 'stopping at once')
      again.resolve()
    }
  }
  process.on('SIGTERM', onSignal)
  process.on('SIGINT', onSignal)
  return { asked: asked.promise, askedAgain: again.promise }
}

/** Says where the gateway is; at the first start in development also how to talk to it, once. */
async function announce({ config, db, log }: { config: Config; db: Database; log: Logger }, port: number) {
  const url = `http://localhost:${port}`
  log.info({ url, database: db.kind, model: config.models.defaultModel, isolation: 'advisory' }, 'gateway ready')
  const isFirst = config.mode === 'development' && (await needsBootstrap(db.sql))
  const made = isFirst ? await bootstrap(db.sql, { onlyFirst: true }) : null
  if (made) process.stdout.write(firstSteps(url, made.token))
  await offerSetup({ config, db, log })
}

/** While nobody could sign in: the way to become the owner. The one credential that is meant for whoever reads the log. */
async function offerSetup({ config, db, log }: { config: Config; db: Database; log: Logger }) {
  const token = await createSetupLink(db.sql)
  if (token === null) return
  const link = `${config.http.publicUrl}/setup#token=${token}`
  log.warn({ link }, 'nobody can sign in yet: open the link, which works once and for a day, to become the owner')
}

/** Printed once and past the log, which keeps no keys. */
function firstSteps(url: string, token: string): string {
  return `
  Lobu is ready. Your API key, shown only this once:

    ${token}

  Chat in the browser:

    ${url}/#key=${token}

  Or in the terminal:

    export LOBU_KEY=${token}
    ID=$(curl -s -X POST ${url}/api/v1/agents -H "authorization: Bearer $LOBU_KEY" | sed 's/.*"agentId":"\\([^"]*\\)".*/\\1/')
    curl -s -X POST ${url}/api/v1/agents/$ID/messages -H "authorization: Bearer $LOBU_KEY" -H 'content-type: application/json' -d '{"content":"Hello!"}'; echo
    curl -N ${url}/api/v1/agents/$ID/events -H "authorization: Bearer $LOBU_KEY"

`
}

/** A server of one's own has no model that everybody knows; without a name, its address changes nothing. */
function warnAboutUnusedModels({ models: { defaultModel, providers } }: Config, log: Logger) {
  if (defaultModel !== 'demo/demo' || providers['openai-compatible'].baseUrl === undefined) return
  log.warn('OPENAI_COMPATIBLE_BASE_URL is set, but agents use demo/demo: set DEFAULT_MODEL=openai-compatible/<model>')
}
