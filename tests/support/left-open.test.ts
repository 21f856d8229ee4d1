import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Seen } from './checker.ts'
import type { Cluster } from './cluster.ts'
import { type Follower, followEvents } from './follower.ts'
import { createRandom } from './random.ts'
import { talk } from './talk.ts'

/** Opens every stream and says nothing on it. */
const server = createServer((_, res) => res.writeHead(200).flushHeaders())
let url = ''

beforeAll(async () => {
  await once(server.listen(0, '127.0.0.1'), 'listening')
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
afterAll(async () => {
  server.closeAllConnections()
  await once(server.close(), 'close')
})

let follower: Follower
let talking: Promise<Seen>

// What a test leaves behind that fails before it has ended its clients.
test('a client that is not ended by its test', async () => {
  follower = await followEvents(url, { token: 'none' })
  expect(follower.isOver()).toBe(false)
})

test('is ended with it', () => {
  expect(follower.isOver()).toBe(true)
})

test('one that talks, and is never answered,', async () => {
  const asked = Promise.withResolvers<void>()
  const conversation = {
    id: 'conv',
    follow: () => followEvents(url, { token: 'none' }),
    async send() {
      asked.resolve()
      return { messageId: 'marker-it-1', runId: 'run' }
    },
  }
  const database = { sql: async () => [] }
  const cluster = { random: createRandom(), open: async () => conversation, database } as unknown as Cluster
  talking = talk(cluster, { name: 'it', goOn: () => true })
  await asked.promise
})

test('is ended as well', async () => {
  expect(await talking).toMatchObject({ name: 'it', acknowledged: [{ messageId: 'marker-it-1' }] })
})

test('one whose request is refused over and over', async () => {
  const refused = Promise.withResolvers<void>()
  async function open() {
    refused.resolve()
    throw new Error('no conversation: 503')
  }
  talking = talk({ random: createRandom(), open } as unknown as Cluster, { name: 'refused', goOn: () => true })
  await refused.promise
})

test('asks no more', async () => {
  expect(await talking).toMatchObject({ name: 'refused', acknowledged: [] })
})
