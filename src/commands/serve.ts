import { createGateway, type Gateway, openGatewayDatabase } from '../app.ts'
import type { Config } from '../config.ts'
import type { Database } from '../db/client.ts'
import { bootstrap, needsBootstrap } from '../domain/accounts/bootstrap.ts'
import { createSetupLink } from '../domain/sign-in/setup.ts'
import { errorLine } from '../lib/errors.ts'
import { createLogger, type Logger } from '../lib/logger.ts'
import { createRedactions } from '../lib/redactions.ts'
import { openTelemetry, type Telemetry } from '../telemetry/open.ts'
import { VERSION } from '../version.ts'
import { migrateDatabase } from './migrate.ts'
import { completeSecrets, knownSecrets } from './secrets.ts'

/** After a stop was asked for, nothing may keep the process longer than its grace and this. */
const EXIT_MS = 10_000

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
  const asked = untilAskedToStop(config, log)
  telemetry = await openTelemetry({ log, redactions }, { ...config.telemetry, version: VERSION })
  const db = await Promise.race([openWithSchema(config, log), asked])
  if (!db) {
    // What was begun is given up half-way, as by kill -9, which both databases stand.
    log.info('stopped')
    return 0
  }
  const gateway = createGateway({ config, db, log, redactions, telemetry }, secrets)
  try {
    await telemetry.listen()
    const port = await gateway.listen()
    log.info({ port }, 'listening')
    const work = gateway.work().then(() => announce({ config, db, log }, port))
    const failed = db.failed.then((error) => {
      throw error
    })
    await Promise.race([asked, failed, work.then(() => asked)])
  } catch (error) {
    log.fatal({ err: errorLine(error) }, error instanceof Error ? error.message : 'the gateway failed')
    await stopWithin({ gateway, telemetry }, config)
    return 1
  }
  await stopWithin({ gateway, telemetry }, config)
  log.info('stopped')
  return 0
}

/** May take minutes: another process may be migrating. */
async function openWithSchema(config: Config, log: Logger): Promise<Database> {
  const db = await openGatewayDatabase(config, log)
  if (!config.db.skipMigrations) await migrateDatabase(db, log)
  return db
}

/** What is told of the end is told last: figures until the gateway has stopped, then what was not sent yet. */
async function stopWithin({ gateway, telemetry }: { gateway: Gateway; telemetry: Telemetry }, config: Config) {
  const late = new Promise<void>((resolve) => setTimeout(resolve, config.shutdown.graceMs + EXIT_MS).unref())
  await Promise.race([gateway.stop(), late])
  await telemetry.close(TELEMETRY_MS)
}

/** Resolves at the first SIGTERM or SIGINT; a second one changes nothing, since stopping is under way. */
function untilAskedToStop({ shutdown: { graceMs } }: Config, log: Logger): Promise<void> {
  return new Promise((resolve) => {
    const onSignal = (signal: NodeJS.Signals) => {
      log.info({ signal, graceMs }, 'stopping')
      resolve()
    }
    process.on('SIGTERM', onSignal)
    process.on('SIGINT', onSignal)
  })
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
