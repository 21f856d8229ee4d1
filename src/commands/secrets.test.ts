import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { parseConfig } from '../config.ts'
import { completeSecrets } from './secrets.ts'

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'lobu-secrets-'))
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

const complete = (env: Record<string, string> = {}) =>
  completeSecrets(parseConfig({ LOBU_DATA_DIR: join(dir, 'data'), ...env }))
const file = () => join(dir, 'data', 'secrets.json')

test('secrets of the environment are used as they are, and nothing is written', () => {
  const given = {
    JWT_SECRET: 'one',
    BETTER_AUTH_SECRET: 'two',
    ENCRYPTION_KEY: 'three',
    ENCRYPTION_KEYS_OLD: 'four, five',
  }
  expect(complete(given)).toEqual({
    jwt: 'one',
    betterAuth: 'two',
    encryption: 'three',
    encryptionOld: ['four', 'five'],
  })
  expect(existsSync(join(dir, 'data'))).toBe(false)
})

test('what is missing is made once, long and random, and outlives a restart', () => {
  const first = complete()
  expect(first.jwt).toMatch(/^[A-Za-z0-9_-]{64}$/)
  expect(first.betterAuth).toMatch(/^[A-Za-z0-9_-]{64}$/)
  expect(first.jwt).not.toBe(first.betterAuth)
  expect(complete()).toEqual(first)
  expect(complete({ JWT_SECRET: 'mine' })).toEqual({ ...first, jwt: 'mine' })
})

test('only their owner can read them', () => {
  complete()
  expect(statSync(file()).mode & 0o777).toBe(0o600)
  expect(statSync(join(dir, 'data')).mode & 0o777).toBe(0o700)
  expect(readdirSync(join(dir, 'data'))).toEqual(['secrets.json'])
})

test('processes that start at the same moment all work with the same ones', async () => {
  const answers = await Promise.all(Array.from({ length: PROCESSES }, () => startTogether(Date.now() + 1_000)))
  for (const answer of answers) expect(answer).toEqual(answers[0])
  expect(new Set(answers[0]!.map((secrets) => secrets.jwt)).size).toBe(ROUNDS)
})

const PROCESSES = 3
const ROUNDS = 120

/** In a process of its own: makes secrets in one new folder after the other, each at a moment that was agreed upon. */
async function startTogether(at: number): Promise<{ jwt: string }[]> {
  const script = `
    import { completeSecrets } from ${JSON.stringify(join(import.meta.dirname, 'secrets.ts'))}
    const made = []
    for (let round = 0; round < ${ROUNDS}; round++) {
      while (Date.now() < ${at} + round * 5);
      made.push(completeSecrets({ secrets: { encryptionOld: [] }, dataDir: ${JSON.stringify(join(dir, 'data'))} + round }))
    }
    process.stdout.write(JSON.stringify(made))`
  const child = spawn(process.execPath, ['--input-type=module-typescript', '--eval', script])
  const text = { stdout: '', stderr: '' }
  child.stdout.on('data', (chunk) => (text.stdout += chunk))
  child.stderr.on('data', (chunk) => (text.stderr += chunk))
  const [code] = await once(child, 'close')
  if (code !== 0) throw new Error(text.stderr)
  return JSON.parse(text.stdout)
}

test('a file that somebody is still writing, or left half-written, is never read as the secrets', () => {
  complete()
  for (const damaged of ['', '{"jwt": "canary', '{}', '{"jwt": "", "betterAuth": ""}', 'null']) {
    writeFileSync(file(), damaged)
    expect(() => complete()).toThrow(/secrets\.json is damaged: delete it/)
    expect(() => complete()).not.toThrow(/canary/)
  }
})
