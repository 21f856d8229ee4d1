import { readFileSync } from 'node:fs'
import { modelProviders } from '../adapters/llm/index.ts'
import { statusOf } from '../adapters/llm/resolve-model.ts'
import type { Config, InspectedConfig } from '../config.ts'
import { createPrices } from '../domain/usage/prices.ts'
import { errorLine } from '../lib/errors.ts'
import { type Finding, fail, ok, warn } from './finding.ts'

const OF_SECRETS = /^(JWT_SECRET|BETTER_AUTH_SECRET|ENCRYPTION_KEYS?(_OLD)?):/
const MAKE_SECRET = 'make one with "openssl rand -base64 48" and give all replicas the same'

/** Whether all settings can be read. What is wrong with secrets is said by `checkSecrets`. */
export function checkSettings({ config, faults }: InspectedConfig): Finding {
  const others = faults.filter((fault) => !OF_SECRETS.test(fault))
  if (others.length === 0) return ok('settings', `NODE_ENV=${config.mode}`)
  return fail('settings', others.join('; '), 'correct them in the environment; docs/operations.md lists all settings')
}

/** Whether the secrets are there and good. Production does not start without; development makes what is missing. */
export function checkSecrets({ config, faults, weakSecrets }: InspectedConfig, kept: boolean): Finding {
  const wrong = faults.filter((fault) => OF_SECRETS.test(fault))
  if (wrong.length > 0) return fail('secrets', wrong.join('; '), MAKE_SECRET)
  if (weakSecrets.length > 0) return warn('secrets', `${weakSecrets.join('; ')} (production refuses this)`, MAKE_SECRET)
  const { jwt, betterAuth, encryption } = config.secrets
  const sealed = encryption === undefined ? 'ENCRYPTION_KEY is derived from them' : 'ENCRYPTION_KEY is set'
  if (jwt === undefined || betterAuth === undefined) {
    return ok('secrets', kept ? 'kept in LOBU_DATA_DIR, for development' : 'made at the first start, for development')
  }
  if (jwt === betterAuth)
    return warn(
      'secrets',
      'JWT_SECRET and BETTER_AUTH_SECRET are the same',
      'make two, so that one can be changed alone',
    )
  return ok('secrets', `JWT_SECRET and BETTER_AUTH_SECRET are set; ${sealed}`)
}

/** Which model providers have what they need. None of them is called. */
export function checkModels({ models }: Config): Finding[] {
  const statuses = modelProviders.map((one) => statusOf(one, models.providers[one.id as keyof typeof models.providers]))
  const there = statuses.filter(({ available }) => available).map(({ provider }) => provider)
  const wanted = models.defaultModel.split('/')[0]
  const fallback = statuses.find(({ provider }) => provider === wanted)
  const findings: Finding[] = []
  const detail = `${there.join(', ')}; agents that name none use ${models.defaultModel}`
  if (fallback?.available === false) {
    findings.push(
      warn(
        'models',
        `DEFAULT_MODEL is ${models.defaultModel}, but ${wanted} is not configured`,
        `set ${fallback.missingVariable}`,
      ),
    )
  } else if (there.every((provider) => provider === 'demo')) {
    findings.push(
      warn('models', 'only the built-in demo model', 'set a key, such as ANTHROPIC_API_KEY or OPENAI_API_KEY'),
    )
  } else findings.push(ok('models', detail))
  if (models.pricesFile !== undefined) findings.push(checkPrices(models.pricesFile))
  return findings
}

function checkPrices(file: string): Finding {
  try {
    createPrices(readFileSync(file, 'utf8'))
    return ok('prices', `MODEL_PRICES_FILE can be read`)
  } catch (error) {
    return fail('prices', `MODEL_PRICES_FILE: ${errorLine(error)}`, 'correct the file or the setting; docs/limits.md')
  }
}

/** Where mail goes. Nothing is sent. */
export function checkMail({ accounts: { smtp, signUp } }: Config): Finding {
  if (smtp === null) {
    if (signUp === 'open')
      return warn('mail', 'none, and anybody may sign up: addresses are not verified', 'set SMTP_URL and MAIL_FROM')
    return ok('mail', 'none: links to invite and to reset are handed over by hand')
  }
  const { protocol, host } = URL.parse(smtp.url) ?? { protocol: 'smtp:', host: '' }
  if (host === '') return fail('mail', 'SMTP_URL names no host', 'write it as smtp://user:password@host:587')
  if (!/[^\s<>@]+@[^\s<>@]+/.test(smtp.from))
    return fail('mail', 'MAIL_FROM holds no address', 'write it as "Name <address@example.com>"')
  return ok('mail', `by ${protocol}//${host}`)
}
