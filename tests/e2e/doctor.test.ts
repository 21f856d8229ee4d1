import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'vitest'
import { SECRETS } from '../support/cluster.ts'
import { freePort } from '../support/free-port.ts'
import { productionEnv, test } from '../support/programs.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('the programs share it')

interface Check {
  name: string
  state: string
  detail: string
  fix?: string
}

const byName = (stdout: string) =>
  Object.fromEntries((JSON.parse(stdout).checks as Check[]).map((check) => [check.name, check]))

test('beside a gateway that serves, doctor finds nothing to fix, and reaches it by its public URL', async ({
  programs,
}) => {
  const port = String(await freePort())
  const env = {
    ...productionEnv(await programs.database()),
    ...{ PORT: port, HOST: '127.0.0.1', PUBLIC_WEB_URL: `http://127.0.0.1:${port}` },
    ...{
      ANTHROPIC_API_KEY: 'sk-canary-of-a-provider',
      SMTP_URL: 'smtp://me:mail-canary@127.0.0.1:9',
      MAIL_FROM: 'a@b.example',
    },
  }
  const gateway = await programs.serve(env)
  await gateway.ready()
  const { code, stdout, stderr } = await programs.run(['doctor'], env)
  expect(stderr).toBe('')
  expect(stdout).toMatch(/^ok +public url +\S+ leads to a gateway, release/m)
  expect(stdout).toMatch(/^ok +replicas +1 runs/m)
  expect(stdout).toMatch(/^ok +workers +a worker starts$/m)
  expect(stdout).toMatch(/^warn +privacy +processes of this user/m)
  expect(stdout).toMatch(/^ok +models +anthropic, demo;/m)
  expect(stdout).toMatch(/^ok +mail +by smtp:\/\/127\.0\.0\.1:9$/m)
  expect(stdout).not.toMatch(/^fail/m)
  expect(code).toBe(0)
  for (const secret of [...Object.values(SECRETS), 'canary']) expect(stdout).not.toContain(secret)
})

test('with settings that nothing else would start with, it names all that is wrong and no value', async ({
  programs,
}) => {
  const faults = {
    JWT_SECRET: 'replace-with-a-long-random-value',
    BETTER_AUTH_SECRET: 'short-canary',
    DATABASE_URL: 'postgres://lobu:pass-canary@127.0.0.1:1/lobu',
    RUN_LEASE_SECONDS: 'fifteen-canary',
  }
  const { code, stdout, stderr } = await programs.run(['doctor', '--json'], { NODE_ENV: 'production', ...faults })
  expect({ code, stderr }).toEqual({ code: 1, stderr: '' })
  const checks = byName(stdout)
  expect(JSON.parse(stdout)).toMatchObject({ ok: false, version: expect.stringMatching(/^\d/) })
  expect(checks.settings).toMatchObject({ state: 'fail', detail: expect.stringContaining('RUN_LEASE_SECONDS') })
  expect(checks.secrets).toMatchObject({ state: 'fail', detail: expect.stringMatching(/BETTER_AUTH_SECRET.*shorter/) })
  expect(checks.secrets!.detail).toMatch(/JWT_SECRET.*placeholder/)
  expect(checks.database).toMatchObject({ state: 'fail', detail: expect.stringContaining('127.0.0.1:1') })
  expect(checks['public url']).toMatchObject({ state: 'fail' })
  expect(checks.workers).toMatchObject({ state: 'ok' })
  for (const check of Object.values(checks)) {
    if (['fail', 'warn'].includes(check.state)) expect(check.fix, check.name).toBeTruthy()
  }
  expect(stdout).not.toMatch(/canary|replace-with/)
})

test('a URL of a database that cannot be read is a fault, and so is none', async ({ programs }) => {
  const production = { ...productionEnv(''), PUBLIC_WEB_URL: 'http://127.0.0.1:9' }
  for (const DATABASE_URL of ['', 'mysql://root@127.0.0.1/app']) {
    const { code, stdout } = await programs.run(['doctor', '--json'], { ...production, DATABASE_URL })
    expect(code).toBe(1)
    expect(byName(stdout)).toMatchObject({ settings: { state: 'fail' }, database: { state: 'fail' } })
  }
})

test('in development it needs nothing, and leaves nothing behind', async ({ programs }) => {
  const dir = await mkdtemp(join(tmpdir(), 'lobu-doctor-'))
  const data = join(dir, 'data')
  const { code, stdout } = await programs.run(['doctor', '--json'], {
    LOBU_DATA_DIR: data,
    PORT: String(await freePort()),
  })
  expect(code).toBe(0)
  expect(byName(stdout)).toMatchObject({ database: { state: 'ok' }, secrets: { state: 'ok' } })
  expect(existsSync(data)).toBe(false)

  mkdirSync(data)
  writeFileSync(join(data, 'secrets.json'), '{"jwt": "canary')
  const damaged = await programs.run(['doctor', '--json'], { LOBU_DATA_DIR: data, PORT: String(await freePort()) })
  expect(damaged.code).toBe(1)
  expect(byName(damaged.stdout).settings).toMatchObject({
    state: 'fail',
    detail: expect.stringContaining('is damaged'),
  })
  expect(damaged.stdout).not.toContain('canary')
  await rm(dir, { recursive: true })
})

test('weak secrets are only pointed out where nothing is at stake', async ({ programs }) => {
  const { code, stdout } = await programs.run(['doctor', '--json'], {
    JWT_SECRET: 'changeme',
    PORT: String(await freePort()),
  })
  expect(code).toBe(0)
  expect(byName(stdout).secrets).toMatchObject({ state: 'warn', detail: expect.stringContaining('JWT_SECRET') })
})

test('prices that cannot be read are found before the gateway falls over them', async ({ programs }) => {
  const { code, stdout } = await programs.run(['doctor', '--json'], { MODEL_PRICES_FILE: '/nowhere/prices.json' })
  expect(code).toBe(1)
  expect(byName(stdout).prices).toMatchObject({ state: 'fail', fix: expect.stringContaining('docs/limits.md') })
})

test('words that it does not know are refused', async ({ programs }) => {
  expect(await programs.run(['doctor', '--jsn'], {})).toMatchObject({ code: 2, stdout: '' })
})
