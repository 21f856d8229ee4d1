import { expect } from 'vitest'
import { openDatabase } from '../../src/db/client.ts'
import { createLogger } from '../../src/lib/logger.ts'
import { sendRequest } from '../support/cluster.ts'
import { startFakeSentry } from '../support/fake-sentry.ts'
import { until } from '../support/gateway.ts'
import { productionEnv, test } from '../support/programs.ts'
import { requirePostgres } from '../support/world.ts'

requirePostgres('the database is made to fail')

test('an unexpected error is reported with its ids and its place, and without a secret; an expected one is not', async ({
  programs,
}) => {
  const sentry = await startFakeSentry()
  const url = await programs.database()
  const env = { ...productionEnv(url), SENTRY_DSN: sentry.dsn, SENTRY_ENVIRONMENT: 'tests' }
  const gateway = await programs.serve(env)
  await gateway.ready()
  const key = (await programs.run(['bootstrap'], env)).stdout.trim()
  const database = await openDatabase({
    url,
    poolMax: 1,
    dataDir: null,
    log: createLogger({ level: 'silent', pretty: false }),
  })
  // A bug, as the gateway sees it: its message quotes a secret, as the worst of them would.
  await database.sql.unsafe(`
    create function fail() returns trigger language plpgsql as $$
    begin raise exception 'refused % for %', '${env.JWT_SECRET}', new.id; end $$`)
  await database.sql.unsafe('create trigger fail before insert on agents for each row execute function fail()')
  await database.close()

  const call = (method: string, path: string, body?: unknown) =>
    sendRequest(method, `${gateway.url}${path}`, {
      token: key,
      headers: { cookie: 'session=canary-of-a-cookie', 'x-api-key': 'canary-of-a-header' },
      ...(body === undefined ? {} : { body }),
    })
  expect((await call('GET', '/api/default/agents/nobody')).status).toBe(404)
  expect((await call('POST', '/api/default/agents', { agentId: 7 })).status).toBe(400)
  expect((await call('GET', '/api/default/agents?token=canary-of-a-query')).status).toBe(200)
  const failed = await call('POST', '/api/default/agents?token=canary-of-a-query', {
    agentId: 'helper',
    instructions: 'canary-of-a-text',
  })
  expect(failed.status).toBe(500)

  const [event] = await until(() => (sentry.events().length > 0 ? sentry.events() : undefined), 'it is reported')
  expect(event).toMatchObject({
    level: 'error',
    environment: 'tests',
    transaction: 'request failed',
    tags: { requestId: failed.body.requestId, organizationId: expect.any(String) },
  })
  const [exception] = event.exception.values
  expect(exception).toMatchObject({
    type: 'PostgresError',
    value: expect.stringContaining('refused [redacted] for helper'),
  })
  expect(exception.stacktrace.frames.length).toBeGreaterThan(0)
  expect(exception.stacktrace.frames.at(-1)).toMatchObject({ lineno: expect.any(Number), filename: expect.any(String) })

  gateway.signal('SIGTERM')
  expect(await gateway.exited).toMatchObject({ code: 0 })
  expect(sentry.events()).toHaveLength(1)
  for (const secret of [env.JWT_SECRET, env.BETTER_AUTH_SECRET, key, 'canary-of'])
    expect(sentry.raw()).not.toContain(secret)
  for (const field of ['"request"', '"user"', '"modules"', '"vars"', '"pre_context"'])
    expect(sentry.raw()).not.toContain(field)
})

test('without a DSN, or with one where nobody listens, the gateway works', async ({ programs }) => {
  const env = { ...productionEnv(await programs.database()), SENTRY_DSN: 'http://publickey@127.0.0.1:9/1' }
  const gateway = await programs.serve(env)
  await gateway.ready()
  gateway.signal('SIGTERM')
  expect(await gateway.exited).toMatchObject({ code: 0 })
})
