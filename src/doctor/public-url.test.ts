import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect } from 'vitest'
import { requirePostgres, type World } from '../../tests/support/world.ts'
import { test } from './test-rig.ts'

requirePostgres('gateways of it are told from those of others')

describe('the public URL', () => {
  async function serve(world: World, listener: RequestListener) {
    const server = createServer(listener).listen(0, '127.0.0.1')
    await new Promise((resolve) => server.once('listening', resolve))
    world.defer(async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    })
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }
  /** What a gateway says of itself. */
  const gateway =
    (replica: string): RequestListener =>
    (req, res) => {
      const body = req.url?.endsWith('/ready') ? { ready: true, replica } : { service: 'lobu', version: '1.0.0' }
      res.setHeader('content-type', 'application/json').end(JSON.stringify(body))
    }

  test('it is missing, or not encrypted', async ({ place, look }) => {
    expect((await look(place.url))['public url']).toMatchObject({
      state: 'fail',
      detail: expect.stringMatching(/is not set/),
    })
    const plain = await look(place.url, { env: { PUBLIC_WEB_URL: 'http://lobu.example' } })
    expect(plain['public url']).toMatchObject({ state: 'fail', detail: expect.stringMatching(/not https/) })
  })

  test('nobody is there; in development that is nothing to mend', async ({ place, look }) => {
    const env = { PUBLIC_WEB_URL: 'http://127.0.0.1:9' }
    expect((await look(place.url, { env }))['public url']).toMatchObject({
      state: 'fail',
      detail: expect.stringMatching(/does not answer/),
    })
    const development = await look(place.url, { env: { ...env, NODE_ENV: 'development' } })
    expect(development['public url']).toMatchObject({ state: 'ok' })
  })

  test('something else answers', async ({ world, place, look }) => {
    const other = await serve(world, (_req, res) => res.end('<h1>It works!</h1>'))
    const found = await look(place.url, { env: { PUBLIC_WEB_URL: other } })
    expect(found['public url']).toMatchObject({ state: 'fail', detail: expect.stringMatching(/is not a Lobu gateway/) })
  })

  test('it leads elsewhere', async ({ world, place, look }) => {
    const moved = await serve(world, (_req, res) =>
      res.writeHead(301, { location: 'https://lobu.example/x?token=canary' }).end(),
    )
    const found = await look(place.url, { env: { PUBLIC_WEB_URL: moved } })
    expect(found['public url']).toMatchObject({
      state: 'fail',
      detail: expect.stringMatching(/to https:\/\/lobu\.example\/x$/),
    })
  })

  test('a gateway of this database answers, or one of another', async ({ world, place, look }) => {
    await place.db
      .sql`insert into replicas (id, version, lease_until) values ('replica_mine', '1.0.0', now() + interval '1 minute')`
    const mine = await serve(world, gateway('replica_mine'))
    const other = await serve(world, gateway('replica_other'))
    expect((await look(place.url, { env: { PUBLIC_WEB_URL: mine } }))['public url']).toMatchObject({ state: 'ok' })
    const found = await look(place.url, { env: { PUBLIC_WEB_URL: other } })
    expect(found['public url']).toMatchObject({ state: 'warn', detail: expect.stringMatching(/another installation/) })
  })
})
