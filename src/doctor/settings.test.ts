import { expect, test } from 'vitest'
import { inspectConfig } from '../config.ts'
import { checkMail, checkModels, checkSecrets } from './settings.ts'

const JWT_SECRET = 'bJ5k0yqWQ2n8sT4vR7uXzC1dF6gH9jLm'
const BETTER_AUTH_SECRET = 'pA3sD8fG1hJ6kL9qW2eR5tY7uI0oZxCv'
const production = (env: Record<string, string>) =>
  inspectConfig({ NODE_ENV: 'production', DATABASE_URL: 'postgres://db/lobu', JWT_SECRET, BETTER_AUTH_SECRET, ...env })

test('secrets: good ones, one for both, none, a placeholder, a short one', () => {
  const found = (env: Record<string, string>) => checkSecrets(production(env), true)
  expect(found({})).toMatchObject({ state: 'ok', detail: expect.stringContaining('derived') })
  expect(found({ ENCRYPTION_KEY: `${JWT_SECRET}2` })).toMatchObject({
    state: 'ok',
    detail: expect.stringContaining('is set'),
  })
  expect(found({ BETTER_AUTH_SECRET: JWT_SECRET })).toMatchObject({ state: 'warn' })
  for (const env of [
    { JWT_SECRET: '' },
    { JWT_SECRET: 'replace-with-a-long-random-value' },
    { ENCRYPTION_KEY: 'short' },
  ])
    expect(found(env)).toMatchObject({ state: 'fail', detail: expect.stringContaining(Object.keys(env)[0]!) })
})

test('models: by name, with the variable that would bring the one that is meant', () => {
  const found = (env: Record<string, string>) => checkModels(production(env).config)[0]
  expect(found({})).toMatchObject({ state: 'warn' })
  expect(found({ OPENAI_API_KEY: 'sk-x' })).toMatchObject({
    state: 'ok',
    detail: expect.stringContaining('openai, demo'),
  })
  const lacking = found({ DEFAULT_MODEL: 'anthropic/claude-x' })
  expect(lacking).toMatchObject({ state: 'warn', fix: 'set ANTHROPIC_API_KEY' })
})

test('mail: none, one, and one that makes no sense; never its password', () => {
  const found = (env: Record<string, string>) => checkMail(production(env).config)
  expect(found({})).toMatchObject({ state: 'ok' })
  expect(found({ SIGN_UP: 'open' })).toMatchObject({ state: 'warn' })
  const there = found({ SMTP_URL: 'smtp://me:canary@mail.example:587', MAIL_FROM: 'Lobu <lobu@example.com>' })
  expect(there).toEqual({ name: 'mail', state: 'ok', detail: 'by smtp://mail.example:587' })
  expect(found({ SMTP_URL: 'smtp://mail.example', MAIL_FROM: 'Lobu' })).toMatchObject({ state: 'fail' })
})
