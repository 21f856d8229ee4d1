import { openGatewayDatabase } from '../app.ts'
import type { Config, InspectedConfig } from '../config.ts'
import { diagnose } from '../doctor/diagnose.ts'
import type { Finding } from '../doctor/finding.ts'
import { errorLine } from '../lib/errors.ts'
import { createLogger } from '../lib/logger.ts'
import { createRedactions } from '../lib/redactions.ts'
import { VERSION } from '../version.ts'
import { findSecrets, knownSecrets } from './secrets.ts'

const NAME_CHARS = 16

/**
 * `lobu doctor`: looks at what a gateway needs to run here, and prints a line for each thing, with what to do about it. Goes
 * on in spite of faulty settings, changes nothing, and prints no secret. Exit code 1 when something is to be fixed.
 */
export async function runDoctor(given: InspectedConfig, { json }: { json: boolean }): Promise<number> {
  const { config } = given
  const { secrets, fault } = findOrExplain(config)
  const inspected = fault === null ? given : { ...given, faults: [...given.faults, fault] }
  const { clean } = createRedactions(knownSecrets(config, secrets ?? { ...config.secrets, jwt: '', betterAuth: '' }))
  const log = createLogger({ level: 'silent', pretty: false })
  const found = await diagnose({ open: (one) => openGatewayDatabase(one, log), secrets, log, now: Date.now }, inspected)
  const findings = found.map(({ detail, fix, ...rest }) => ({
    ...rest,
    detail: clean(oneLine(detail)),
    ...(fix === undefined ? {} : { fix: clean(oneLine(fix)) }),
  }))
  const faults = findings.filter(({ state }) => state === 'fail').length
  process.stdout.write(
    json
      ? `${JSON.stringify({ ok: faults === 0, version: VERSION, checks: findings }, null, 2)}\n`
      : `${findings.map(lineOf).join('')}${summary(findings)}`,
  )
  return faults === 0 ? 0 : 1
}

/** A damaged file of secrets is one more fault to tell, and no reason to stop. */
function findOrExplain(config: Config) {
  try {
    return { secrets: findSecrets(config), fault: null }
  } catch (error) {
    return { secrets: null, fault: `LOBU_DATA_DIR: ${errorLine(error)}` }
  }
}

function lineOf({ name, state, detail, fix }: Finding): string {
  const advice = fix === undefined ? '' : ` — fix: ${fix}`
  return `${state.padEnd(5)} ${name.padEnd(NAME_CHARS)} ${detail}${advice}\n`
}

function summary(findings: Finding[]): string {
  const count = (state: Finding['state']) => findings.filter((one) => one.state === state).length
  return `\n${count('fail')} to fix, ${count('warn')} to know about, ${count('ok')} fine\n`
}

function oneLine(text: string): string {
  return text.replaceAll(/\s*[\r\n]+\s*/g, ' ')
}
