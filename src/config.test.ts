import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { ConfigError, inspectConfig, parseConfig } from './config.ts'

const SECRET = 'kq9Zr3vYxW2mN8pL5tB7cD4fG6hJ1sA0'
const PRODUCTION = {
  NODE_ENV: 'production',
  DATABASE_URL: 'postgres://lobu@db/lobu',
  JWT_SECRET: SECRET,
  BETTER_AUTH_SECRET: `${SECRET}2`,
}
const CANARY = 'canary-5f3a'

describe('defaults', () => {
  test('an empty environment is a gateway for development on loopback', () => {
    const config = parseConfig({})
    expect(config).toMatchObject({
      mode: 'development',
      dataDir: './.lobu',
      http: { port: 8787, host: '127.0.0.1', publicUrl: 'http://localhost:8787' },
      db: { url: undefined, directUrl: undefined, poolMax: 10, skipMigrations: false },
      secrets: { jwt: undefined, betterAuth: undefined, encryption: undefined },
      queue: { leaseMs: 15_000, attemptsMax: 3, runMsMax: 1_800_000, pollMs: 1_000, depthMax: 100, orgRunsMax: 200 },
      sse: { streamsMax: 20_000, pingMs: 15_000 },
      models: { defaultModel: 'demo/demo' },
      shutdown: { waitMs: 0, graceMs: 25_000, requestsEndMs: 35_000, totalMs: 40_000 },
      log: { level: 'info', pretty: false },
    })
  })

  test('a client gives up after 60 s of silence: a ping comes at least every 15 s unless asked otherwise', () => {
    expect(parseConfig({}).sse.pingMs).toBeLessThanOrEqual(15_000)
    expect(faultsOf({ STREAM_PING_SECONDS: '31' })).toEqual([expect.stringMatching(/^STREAM_PING_SECONDS: /)])
  })

  test('a transaction that stands still is ended well before a lease that waits for its locks lapses', () => {
    expect(parseConfig({}).db.transactionIdleMsMax).toBe(5_000)
    expect(parseConfig({ RUN_LEASE_SECONDS: '600' }).db.transactionIdleMsMax).toBe(5_000)
    expect(parseConfig({ RUN_LEASE_SECONDS: '3' }).db.transactionIdleMsMax).toBe(1_500)
  })

  test('white space around a value, as the end of a file leaves it in a secret, is no part of it', () => {
    const config = parseConfig({
      ...PRODUCTION,
      DATABASE_URL: `${PRODUCTION.DATABASE_URL}\n`,
      OPENAI_API_KEY: ' k\r\n',
    })
    expect(config.db.url).toBe(PRODUCTION.DATABASE_URL)
    expect(config.models.providers.openai.apiKey).toBe('k')
    expect(faultsOf({ ...PRODUCTION, JWT_SECRET: `${SECRET.slice(0, 20)}${' '.repeat(20)}` })).toHaveLength(1)
  })

  test('in production the gateway listens on all addresses, unless told where', () => {
    expect(parseConfig(PRODUCTION).http.host).toBe('0.0.0.0')
    expect(parseConfig({ ...PRODUCTION, HOST: '10.0.0.1' }).http.host).toBe('10.0.0.1')
  })

  test('log lines are readable on a terminal only, unless told', () => {
    expect(parseConfig({}, { isTerminal: true }).log.pretty).toBe(true)
    expect(parseConfig({ LOG_PRETTY: '0' }, { isTerminal: true }).log.pretty).toBe(false)
    expect(parseConfig({ LOG_PRETTY: 'yes' }).log.pretty).toBe(true)
  })

  test('the default model is the first provider with a key, else the built-in one', () => {
    const modelWith = (env: Record<string, string>) => parseConfig(env).models.defaultModel
    expect(modelWith({ OPENAI_API_KEY: 'k', ANTHROPIC_API_KEY: 'k', GEMINI_API_KEY: 'k' })).toMatch(/^anthropic\//)
    expect(modelWith({ OPENAI_API_KEY: 'k', GEMINI_API_KEY: 'k' })).toMatch(/^openai\//)
    for (const name of ['GOOGLE_GENERATIVE_AI_API_KEY', 'GOOGLE_API_KEY', 'GEMINI_API_KEY']) {
      expect(modelWith({ [name]: 'k' })).toMatch(/^google\//)
      expect(parseConfig({ [name]: 'k' }).models.providers.google.apiKey).toBe('k')
    }
    expect(modelWith({ OPENAI_API_KEY: 'k', DEFAULT_MODEL: 'demo/demo' })).toBe('demo/demo')
  })
})

/** Each number: its lowest and highest value, one below and one above, and where it ends up. */
const NUMBERS: [
  name: string,
  min: number,
  max: number,
  read: (c: ReturnType<typeof parseConfig>) => unknown,
  unit?: number,
][] = [
  ['PORT', 0, 65_535, (c) => c.http.port],
  ['DATABASE_POOL_MAX', 2, 500, (c) => c.db.poolMax],
  ['RUN_LEASE_SECONDS', 1, 600, (c) => c.queue.leaseMs, 1000],
  ['RUN_ATTEMPTS_MAX', 1, 20, (c) => c.queue.attemptsMax],
  ['RUN_SECONDS_MAX', 1, 86_400, (c) => c.queue.runMsMax, 1000],
  ['QUEUE_POLL_SECONDS', 0.05, 60, (c) => c.queue.pollMs, 1000],
  ['QUEUE_DEPTH_MAX', 1, 10_000, (c) => c.queue.depthMax],
  ['ORG_RUNS_MAX', 1, 1_000_000, (c) => c.queue.orgRunsMax],
  ['STREAMS_MAX', 1, 1_000_000, (c) => c.sse.streamsMax],
  ['STREAMS_PER_CONVERSATION_MAX', 1, 10_000, (c) => c.sse.streamsPerConversationMax],
  ['STREAM_PING_SECONDS', 1, 30, (c) => c.sse.pingMs, 1000],
  ['STREAM_BUFFER_BYTES_MAX', 524_288, 67_108_864, (c) => c.sse.bufferBytesMax],
  ['LOG_KEEP_SECONDS', 1, 31_536_000, (c) => c.retention.logKeepMs, 1000],
  ['WORKERS_MAX', 1, 10_000, (c) => c.workers.max],
  ['WORKERS_BUSY_MAX', 1, 10_000, (c) => c.workers.busyMax],
  ['WORKERS_WARM', 0, 100, (c) => c.workers.warm],
  ['WORKER_IDLE_SECONDS', 1, 86_400, (c) => c.workers.idleMs, 1000],
  ['WORKER_START_SECONDS', 1, 300, (c) => c.workers.startMs, 1000],
  ['WORKER_SILENCE_SECONDS', 1, 3_600, (c) => c.workers.silenceMs, 1000],
  ['WORKER_MEMORY_MB', 64, 65_536, (c) => c.workers.memoryMb],
  ['WORKER_STEPS_MAX', 1, 1_000, (c) => c.workers.stepsMax],
  ['WORKER_OUTPUT_TOKENS_MAX', 16, 1_000_000, (c) => c.workers.outputTokensMax],
  ['SHUTDOWN_WAIT_SECONDS', 0, 600, (c) => c.shutdown.waitMs, 1000],
  ['SHUTDOWN_GRACE_SECONDS', 0, 3_600, (c) => c.shutdown.graceMs, 1000],
]

describe('numbers', () => {
  test.each(NUMBERS)('%s is between %d and %d', (name, min, max, read, unit = 1) => {
    expect(read(parseConfig({ [name]: String(min) }))).toBeCloseTo(min * unit)
    expect(read(parseConfig({ [name]: String(max) }))).toBe(max * unit)
    for (const wrong of [min - 1, max + 1, 'many', '1,000', '5s', 'NaN', 'Infinity', '-']) {
      expect(faultsOf({ [name]: String(wrong) }), String(wrong)).toEqual([expect.stringMatching(`^${name}: `)])
    }
  })

  test.each(NUMBERS.filter(([, , , , unit]) => unit === undefined))('%s is a whole number', (name, min) => {
    expect(faultsOf({ [name]: String(min + 0.5) })).toEqual([expect.stringMatching(`^${name}: `)])
  })

  test.each(NUMBERS)('%s: nothing and blanks mean unset', (name, _min, _max, read) => {
    for (const blank of ['', ' ', '\t\n']) expect(read(parseConfig({ [name]: blank }))).toBe(read(parseConfig({})))
  })
})

describe('words and URLs', () => {
  test.each([
    ['NODE_ENV', ['development', 'test'], ['prod', 'Production', 'develop ment']],
    ['LOG_LEVEL', ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'], ['verbose', 'INFO']],
    ['LOG_PRETTY', ['1', 'true', 'yes', 'on', '0', 'false', 'no', 'off'], ['2', 'maybe']],
    ['DEFAULT_MODEL', ['demo/demo', 'openai/gpt-5-mini', 'openai-compatible/a/b'], ['gpt-5', 'mistral/x', 'openai/']],
    ['PUBLIC_WEB_URL', ['https://lobu.test', 'http://localhost:1'], ['lobu.test', 'ftp://lobu.test', '//lobu.test']],
    ['ANTHROPIC_BASE_URL', ['https://proxy.test/v1'], ['proxy.test']],
    ['SIGN_UP', ['invited', 'open'], ['closed']],
    ['TRUSTED_PROXY', ['*', '10.0.0.0/8', '10.0.0.1, fd00::/8'], ['proxy', '10.0.0.0/33', '10.0.0.1 10.0.0.2']],
    ['TRUSTED_ORIGINS', ['https://a.test', 'https://a.test/, http://b.test:1'], ['a.test', 'https://a.test/x', '*']],
    ['OPENAI_COMPATIBLE_BASE_URL', ['http://127.0.0.1:11434/v1'], ['localhost:11434']],
    [
      'DATABASE_URL',
      [
        'postgres://u:p%40ss@db:5432/lobu?sslmode=require',
        'postgresql:///lobu?host=/var/run/postgresql',
        'postgres://u:p@one:5432,two:5432/lobu',
      ],
      ['mysql://db/lobu', 'db:5432/lobu', 'host=db'],
    ],
    ['DATABASE_DIRECT_URL', ['postgres://db/lobu'], ['https://db/lobu']],
  ])('%s', (name, good, bad) => {
    for (const value of good) expect(faultsOf({ [name]: value }), value).toEqual([])
    for (const value of bad) expect(faultsOf({ [name]: value }), value).toEqual([expect.stringMatching(`^${name}: `)])
  })

  test('base URLs lose their last slash, so that paths can be put behind them', () => {
    const { http, models } = parseConfig({
      PUBLIC_WEB_URL: 'https://lobu.test/base/',
      OPENAI_BASE_URL: 'https://proxy.test/v1//',
      OPENAI_COMPATIBLE_BASE_URL: 'http://local.test/',
    })
    expect(http.publicUrl).toBe('https://lobu.test/base')
    expect(models.providers.openai.baseUrl).toBe('https://proxy.test/v1')
    expect(models.providers['openai-compatible'].baseUrl).toBe('http://local.test')
  })

  test('the public URL is spelt as browsers spell an origin, since it is compared with theirs', () => {
    expect(parseConfig({ PUBLIC_WEB_URL: 'HTTPS://Lobu.Test:443/' }).http.publicUrl).toBe('https://lobu.test')
  })

  test('SKIP_MIGRATIONS: any value counts, also 0 and false; nothing does not', () => {
    for (const value of ['1', 'true', '0', 'false']) {
      expect(parseConfig({ SKIP_MIGRATIONS: value }).db.skipMigrations).toBe(true)
    }
    expect(parseConfig({ SKIP_MIGRATIONS: '' }).db.skipMigrations).toBe(false)
  })
})

test('settings that mean nothing alone come together, or the missing ones are named', () => {
  expect(namesOf({ SMTP_URL: 'smtp://mail.test' })).toEqual(['MAIL_FROM'])
  expect(namesOf({ GOOGLE_CLIENT_ID: 'a' })).toEqual(['GOOGLE_CLIENT_SECRET'])
  expect(namesOf({ GITHUB_CLIENT_SECRET: 'a' })).toEqual(['GITHUB_CLIENT_ID'])
  expect(namesOf({ OIDC_ISSUER: 'https://a.test' })).toEqual(['OIDC_CLIENT_ID', 'OIDC_CLIENT_SECRET'])
  const { accounts } = parseConfig({ OIDC_ISSUER: 'https://a.test', OIDC_CLIENT_ID: 'a', OIDC_CLIENT_SECRET: 'b' })
  expect(accounts.oidc).toMatchObject({ issuer: 'https://a.test', role: null })
})

test('a public URL that is missing or not https is a fault in production, and only there', () => {
  const fault = (url?: string) => parseConfig({ ...PRODUCTION, PUBLIC_WEB_URL: url }).http.publicUrlFault
  expect(fault()).toMatch(/is not set/)
  expect(fault('http://lobu.test')).toMatch(/is not https/)
  expect(fault('http://127.0.0.1.lobu.test')).toMatch(/is not https/)
  for (const fine of ['https://lobu.test', 'http://127.0.0.1:8787', 'http://[::1]:8787']) expect(fault(fine)).toBeNull()
  expect(parseConfig({}).http.publicUrlFault).toBeNull()
})

describe('faults', () => {
  test('all come together, each by its name, those of secrets among them', () => {
    const env = { NODE_ENV: 'production', PORT: 'x', LOG_LEVEL: 'loud', STREAMS_MAX: '0', JWT_SECRET: 'short' }
    expect(namesOf(env)).toEqual(
      ['BETTER_AUTH_SECRET', 'DATABASE_URL', 'JWT_SECRET', 'LOG_LEVEL', 'PORT', 'STREAMS_MAX'].sort(),
    )
  })

  test('no value is ever repeated', () => {
    const names = Object.keys(
      Object.fromEntries(
        [...NUMBERS.map(([name]) => name), 'NODE_ENV', 'PUBLIC_WEB_URL', 'DATABASE_URL', 'DATABASE_DIRECT_URL']
          .concat('LOG_LEVEL', 'LOG_PRETTY', 'DEFAULT_MODEL', 'OPENAI_BASE_URL', 'OPENAI_COMPATIBLE_BASE_URL')
          .concat('ANTHROPIC_BASE_URL', 'GOOGLE_BASE_URL')
          .map((name) => [name, CANARY]),
      ),
    )
    const error = errorOf(Object.fromEntries(names.map((name) => [name, `${CANARY}:${name}:`])))
    expect(error.faults).toHaveLength(names.length)
    expect(`${error.message} ${JSON.stringify(error)} ${error.stack}`).not.toContain(CANARY)

    const weak = errorOf({ ...PRODUCTION, JWT_SECRET: CANARY, BETTER_AUTH_SECRET: CANARY, ENCRYPTION_KEY: CANARY })
    expect(weak.faults).toHaveLength(3)
    expect(`${weak.message} ${weak.stack}`).not.toContain(CANARY)
  })

  test('the message is one sentence for each fault', () => {
    expect(errorOf({ PORT: 'x', LOG_PRETTY: 'x' }).message.split('\n')).toHaveLength(3)
  })
})

describe('production', () => {
  test('is content with a database and two secrets', () => {
    expect(faultsOf(PRODUCTION)).toEqual([])
  })

  test('names all that is missing at once', () => {
    expect(namesOf({ NODE_ENV: 'production' })).toEqual(['BETTER_AUTH_SECRET', 'DATABASE_URL', 'JWT_SECRET'])
  })

  test.each(['JWT_SECRET', 'BETTER_AUTH_SECRET', 'ENCRYPTION_KEY'])('%s is refused short or well known', (name) => {
    const wellKnown = [
      'replace-with-a-long-random-value',
      'REPLACE-WITH-A-LONG-RANDOM-VALUE-0123456789',
      'change-me-change-me-change-me-change-me',
      'changeme-0123456789-0123456789-0123456789',
      'your-secret-here-your-secret-here-0123',
      'example-secret-example-secret-example-secret',
      '<placeholder-for-a-secret-of-32-characters>',
      'a'.repeat(64),
    ]
    for (const value of [...wellKnown, SECRET.slice(0, 31)]) {
      expect(namesOf({ ...PRODUCTION, [name]: value }), value).toEqual([name])
    }
    expect(namesOf({ ...PRODUCTION, [name]: SECRET })).toEqual([])
  })

  test('encryption keys are read without the space around them, and none may hold the comma that parts them', () => {
    const { secrets } = parseConfig({
      ...PRODUCTION,
      ...{ ENCRYPTION_KEY: `${SECRET}\n`, ENCRYPTION_KEYS_OLD: ` one-key,\n another-key ,` },
    })
    expect(secrets).toMatchObject({ encryption: SECRET, encryptionOld: ['one-key', 'another-key'] })
    expect(parseConfig(PRODUCTION).secrets).toMatchObject({ encryption: undefined, encryptionOld: [] })
    expect(namesOf({ ...PRODUCTION, ENCRYPTION_KEY: `${SECRET},${SECRET}` })).toEqual(['ENCRYPTION_KEY'])
  })

  test('a stop first waits until balancers have moved on, unless told otherwise', () => {
    expect(parseConfig(PRODUCTION).shutdown).toEqual({
      ...{ waitMs: 10_000, graceMs: 25_000, requestsEndMs: 45_000, totalMs: 50_000 },
    })
    expect(parseConfig({ ...PRODUCTION, SHUTDOWN_WAIT_SECONDS: '0', SHUTDOWN_GRACE_SECONDS: '0' }).shutdown).toEqual({
      ...{ waitMs: 0, graceMs: 0, requestsEndMs: 10_000, totalMs: 15_000 },
    })
  })

  test('random secrets are never refused, whatever they were made with', () => {
    const words = ['example', 'correct', 'horse', 'battery', 'change', 'your', 'secret', 'replace', 'with', 'me']
    const pick = () => words[randomBytes(1)[0]! % words.length]!
    for (let i = 0; i < 10_000; i++) {
      const bytes = randomBytes(24 + (i % 40))
      const passphrase = `${pick()} ${pick()} ${pick()} ${pick()} ${pick()} ${pick()} ${bytes.toString('hex').slice(0, 8)}`
      const [JWT_SECRET, BETTER_AUTH_SECRET, ENCRYPTION_KEY] = [
        bytes.toString('base64url'),
        bytes.toString('base64'),
        i % 2 ? bytes.toString('hex') : passphrase.padEnd(32, 'x'),
      ]
      expect(faultsOf({ ...PRODUCTION, JWT_SECRET, BETTER_AUTH_SECRET, ENCRYPTION_KEY })).toEqual([])
    }
  })

  test('development takes any secret', () => {
    expect(parseConfig({ JWT_SECRET: 'x' }).secrets.jwt).toBe('x')
  })
})

describe('an inspection goes on where parsing stops', () => {
  test('what can be read is there, what cannot has its default, and all faults are named', () => {
    const { config, faults } = inspectConfig({ ...PRODUCTION, JWT_SECRET: '', PORT: 'eighty', RUN_ATTEMPTS_MAX: '5' })
    expect(config).toMatchObject({ mode: 'production', http: { port: 8787 }, queue: { attemptsMax: 5 } })
    expect(faults.map((fault) => fault.split(':')[0])).toEqual(['PORT', 'JWT_SECRET'])
  })

  test('weak secrets are told in any mode', () => {
    const { faults, weakSecrets } = inspectConfig({ JWT_SECRET: 'changeme', ENCRYPTION_KEY: 'short' })
    expect(faults).toEqual([])
    expect(weakSecrets.map((fault) => fault.split(':')[0])).toEqual(['JWT_SECRET', 'ENCRYPTION_KEY'])
  })

  test('where parsing succeeds, both say the same', () => {
    expect(inspectConfig(PRODUCTION)).toEqual({ config: parseConfig(PRODUCTION), faults: [], weakSecrets: [] })
  })
})

function errorOf(env: Record<string, string>): ConfigError {
  try {
    parseConfig(env)
  } catch (error) {
    if (error instanceof ConfigError) return error
    throw error
  }
  return new ConfigError([])
}

function faultsOf(env: Record<string, string>): string[] {
  return errorOf(env).faults
}

function namesOf(env: Record<string, string>): string[] {
  return faultsOf(env)
    .map((fault) => fault.split(':')[0]!)
    .sort()
}
