import { type Logger, pino, stdTimeFunctions } from 'pino'
import pretty from 'pino-pretty'
import type { Redactions } from './redactions.ts'

export type { Logger }

/** Names whose values may be a secret, wherever in a line they stand. */
const SECRET_NAMES = ['authorization', 'cookie', 'set-cookie', 'x-api-key', 'token', 'apiKey', 'password', 'secret']
const SECRETS = new Set(SECRET_NAMES)
const CENSOR = '[redacted]'
/** Deeper than any line of ours; what is nested deeper is not searched. */
const DEPTH_MAX = 6

/**
 * The one logger, handed to every part: JSON lines, or readable lines when standard output is a terminal.
 * `warn` is for what heals itself, `error` for what wants a person. Message text and tokens are never logged.
 */
export function createLogger(options: {
  level: string
  pretty: boolean
  /** Standard output unless given. */
  stream?: NodeJS.WriteStream
  /** Secret values that must not be written, whatever name they stand under. */
  redactions?: Pick<Redactions, 'clean'>
  /** Is shown each line of the level warn and above, as it is written. Must not throw or log. */
  onTrouble?(line: string): void
}): Logger {
  const { redactions, onTrouble } = options
  const settings = {
    level: options.level,
    base: { service: 'lobu' },
    timestamp: stdTimeFunctions.isoTime,
    formatters: {
      level: (label: string) => ({ level: label }),
      log: (line: Record<string, unknown>) => redact(line, DEPTH_MAX),
    },
    ...(redactions || onTrouble
      ? { hooks: { streamWrite: (line: string) => finish(line, redactions, onTrouble) } }
      : {}),
    // These reach the bindings of child loggers as well. Paths with wildcards cost 40 µs a line (pino 10), `redact` one.
    redact: { paths: SECRET_NAMES.map((name) => `["${name}"]`), censor: CENSOR },
  }
  const stream = options.stream ?? process.stdout
  if (!options.pretty) return options.stream ? pino(settings, stream) : pino(settings)
  const lines = pretty({ sync: true, ignore: 'service', translateTime: 'HH:MM:ss.l', destination: stream })
  return pino(settings, lines)
}

/** Our own formatter puts the level first, so lines are told apart without a look at the rest. */
const TROUBLE = ['warn', 'error', 'fatal'].map((level) => `{"level":"${level}"`)

function finish(line: string, redactions?: Pick<Redactions, 'clean'>, onTrouble?: (line: string) => void): string {
  const clean = redactions ? redactions.clean(line) : line
  if (onTrouble && TROUBLE.some((start) => clean.startsWith(start))) onTrouble(clean)
  return clean
}

/** The same value without secrets. What holds none is returned as it is, never changed. */
function redact<T>(value: T, depth: number): T {
  if (depth === 0 || !isPlain(value)) return value
  let copy: Record<string, unknown> | undefined
  for (const [key, inner] of Object.entries(value)) {
    const clean = SECRETS.has(key) && inner !== undefined ? CENSOR : redact(inner, depth - 1)
    if (clean === inner) continue
    copy ??= (Array.isArray(value) ? [...value] : { ...value }) as Record<string, unknown>
    copy[key] = clean
  }
  return (copy as T | undefined) ?? value
}

/** Errors and other instances are left to pino's serializers. */
function isPlain(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false
  const prototype = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === Array.prototype || prototype === null
}
