import { randomBytes } from 'node:crypto'
import { existsSync, linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import type { Config } from '../config.ts'

/** What is kept where the environment names none. */
interface KeptSecrets {
  jwt: string
  betterAuth: string
}

export interface Secrets extends KeptSecrets {
  encryption: string | undefined
  encryptionOld: string[]
}

const Kept = z.object({ jwt: z.string().min(1), betterAuth: z.string().min(1) })

/**
 * The secrets that this process works with. Production has them from its environment, or `parseConfig` has refused;
 * elsewhere what is missing is made once and kept beside the embedded database, so that tokens outlive a restart.
 */
export function completeSecrets(config: Config): Secrets {
  const { jwt, betterAuth, encryption, encryptionOld } = config.secrets
  if (jwt !== undefined && betterAuth !== undefined) return { jwt, betterAuth, encryption, encryptionOld }
  const kept = keepSecrets(config.dataDir)
  return { jwt: jwt ?? kept.jwt, betterAuth: betterAuth ?? kept.betterAuth, encryption, encryptionOld }
}

/** The same without making anything: null when something is missing that the first start would make. */
export function findSecrets(config: Config): Secrets | null {
  const { jwt, betterAuth } = config.secrets
  if (jwt !== undefined && betterAuth !== undefined) return completeSecrets(config)
  const isKept = config.mode !== 'production' && existsSync(join(config.dataDir, 'secrets.json'))
  return isKept ? completeSecrets(config) : null
}

/** All values of the environment and of development's own file that must not be written anywhere. */
export function knownSecrets(config: Config, secrets: Secrets): string[] {
  const { jwt, betterAuth, encryption, encryptionOld } = secrets
  const { smtp, google, github, oidc } = config.accounts
  const { metrics, tracing } = config.telemetry
  const keys = Object.values(config.models.providers).map(({ apiKey }) => apiKey)
  const clients = [google, github, oidc].map((client) => client?.clientSecret)
  const urls = [config.db.url, config.db.directUrl, smtp?.url].flatMap(passwordOf)
  const told = [metrics?.token, ...(tracing?.secrets ?? [])]
  return [jwt, betterAuth, encryption, ...encryptionOld, ...keys, ...clients, ...urls, ...told].filter(
    (value) => value !== undefined,
  )
}

/** As it stands in the URL and as it is sent; a list of hosts is no URL, so this is read by hand as in `db/url.ts`. */
function passwordOf(url: string | undefined): string[] {
  const written = /^[^:]+:\/\/[^:@/]*:([^@/]*)@/.exec(url ?? '')?.[1]
  return written === undefined ? [] : [written, decoded(written)]
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

function keepSecrets(dataDir: string): KeptSecrets {
  const file = join(dataDir, 'secrets.json')
  mkdirSync(dataDir, { recursive: true, mode: 0o700 })
  if (!existsSync(file))
    writeOnce(file, `${JSON.stringify({ jwt: makeSecret(), betterAuth: makeSecret() }, null, 2)}\n`)
  return readSecrets(file)
}

/** Of processes that start at once one makes the file, and all read it whole: it gets its name when it is complete. */
function writeOnce(file: string, text: string) {
  const draft = `${file}.${process.pid}-${randomBytes(4).toString('hex')}`
  writeFileSync(draft, text, { mode: 0o600 })
  try {
    linkSync(draft, file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  } finally {
    rmSync(draft)
  }
}

function readSecrets(file: string): KeptSecrets {
  const { data } = Kept.safeParse(parseJson(readFileSync(file, 'utf8')))
  if (!data)
    throw new Error(
      `${file} is damaged: delete it, and new secrets are made. Session tokens end with the old ones, and stored secrets that were sealed by them are lost.`,
    )
  return data
}

/** Undefined for what is not JSON: the parser's own error would quote the file. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function makeSecret(): string {
  return randomBytes(48).toString('base64url')
}
