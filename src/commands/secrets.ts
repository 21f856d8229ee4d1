import { randomBytes } from 'node:crypto'
import { existsSync, linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import type { Config } from '../config.ts'

export interface Secrets {
  jwt: string
  betterAuth: string
}

const Kept = z.object({ jwt: z.string().min(1), betterAuth: z.string().min(1) })

/**
 * The secrets that this process works with. Production has them from its environment, or `parseConfig` has refused;
 * elsewhere what is missing is made once and kept beside the embedded database, so that tokens outlive a restart.
 */
export function completeSecrets(config: Config): Secrets {
  const { jwt, betterAuth } = config.secrets
  if (jwt !== undefined && betterAuth !== undefined) return { jwt, betterAuth }
  const kept = keepSecrets(config.dataDir)
  return { jwt: jwt ?? kept.jwt, betterAuth: betterAuth ?? kept.betterAuth }
}

function keepSecrets(dataDir: string): Secrets {
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

function readSecrets(file: string): Secrets {
  const { data } = Kept.safeParse(parseJson(readFileSync(file, 'utf8')))
  if (!data)
    throw new Error(`${file} is damaged: delete it, and new secrets are made. Session tokens end with the old ones.`)
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
