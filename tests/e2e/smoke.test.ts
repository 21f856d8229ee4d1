import { expect } from 'vitest'
import { sendRequest } from '../support/cluster.ts'
import { productionEnv, test } from '../support/programs.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('the programs share it')

test('the smoke test of the chart takes a real turn, needs no secret but the database, and leaves no key', async ({
  programs,
}) => {
  const database = await programs.database()
  const gateway = await programs.serve(productionEnv(database))
  // What the chart's test pod has: the database and nothing else.
  const env = { NODE_ENV: 'production', DATABASE_URL: database }
  const smoke = await programs.run(['smoke', gateway.url], env)
  expect(smoke.stderr.replaceAll(/^not ready yet: .*\n/gm, '')).toBe('')
  expect(smoke.code).toBe(0)
  expect(smoke.stdout).toMatch(/answer came whole/)

  const { stdout } = await programs.run(['bootstrap'], env)
  const keys = await sendRequest('GET', `${gateway.url}/api/default/tokens`, { token: stdout.trim() })
  const names = (keys.body.tokens as { name: string }[]).map(({ name }) => name)
  expect(names).toContain('bootstrap')
  expect(names).not.toContain('smoke')
})

test('the smoke test says what is wrong when nobody answers with the right words', async ({ programs }) => {
  const database = await programs.database()
  const other = await programs.serve(productionEnv(await programs.database()))
  await other.ready()
  const smoke = await programs.run(['smoke', other.url], { NODE_ENV: 'production', DATABASE_URL: database })
  expect(smoke.code).toBe(1)
  expect(smoke.stderr).toMatch(/^The turn at http:\S+ failed: POST \/api\/v1\/agents answers 401/m)
})

test('production migrates with nothing but its database, whatever SKIP_MIGRATIONS says', async ({ programs }) => {
  const env = { NODE_ENV: 'production', DATABASE_URL: await programs.database({ empty: true }), SKIP_MIGRATIONS: '1' }
  const first = await programs.run(['migrate'], env)
  expect([first.code, first.stderr]).toEqual([0, ''])
  const smoke = await programs.run(['bootstrap'], env)
  expect(smoke.stdout).toMatch(/^lobu_/)
})
