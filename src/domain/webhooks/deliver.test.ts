import { createHmac, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { pino } from 'pino'
import { expect, onTestFinished, vi } from 'vitest'
import { test, type World } from '../../../tests/support/world.ts'
import { createGuardedFetch } from '../../adapters/outbound/guarded-fetch.ts'
import type { Sql } from '../../db/client.ts'
import { createWebhookDeliverer, type WebhookDelivererOptions } from './deliver.ts'
import { webhookSigningKey } from './signature.ts'

const SECRET = 'a secret of at least thirty-two characters'
const HOUR_MS = 3_600_000

interface Seen {
  url: string
  headers: http.IncomingHttpHeaders
  body: string
}

/** A receiver on loopback that keeps what it was told before it answers; `answer` may leave a call without one. */
async function startReceiver(answer: (res: http.ServerResponse, nth: number) => unknown, address = '127.0.0.1') {
  const seen: Seen[] = []
  const server = http.createServer(async (req, res) => {
    seen.push({ url: req.url!, headers: req.headers, body: await text(req) })
    await answer(res, seen.length)
  })
  server.listen(0, address)
  await once(server, 'listening')
  const close = () => {
    server.close()
    server.closeAllConnections()
  }
  onTestFinished(close)
  const { port } = server.address() as AddressInfo
  return { seen, host: `${address}:${port}`, url: `http://${address}:${port}/hook?token=secret`, close }
}

const ok = (res: http.ServerResponse) => res.end()
const status =
  (code: number, headers = {}) =>
  (res: http.ServerResponse) =>
    res.writeHead(code, headers).end()

async function owe(sql: Sql, organizationId: string, url: string, count = 1): Promise<string[]> {
  const ids = Array.from({ length: count }, () => randomUUID())
  await sql`
    insert into outbox (organization_id, id, kind, target, payload)
    select ${organizationId}, id, 'webhook', ${url}, ${sql.json({ status: 'completed', finalText: 'grüße "✓"' })}
    from unnest(${ids}::uuid[]) as id`
  return ids
}

const owed = (sql: Sql) => sql<{ id: string; attempt: number; waitMs: number }[]>`
  select id, attempt, (extract(epoch from due_at - now()) * 1000)::int as "waitMs" from outbox where not ready`

const passTime = (sql: Sql) => sql`update outbox set due_at = now()`

/** A deliverer on a replica of its own, and the lines that it logs. It looks only when it is rung. */
async function startDeliverer(world: World, options: Partial<WebhookDelivererOptions> = {}) {
  const database = await world.replica()
  const lines: Record<string, unknown>[] = []
  const log = pino({ level: 'debug' }, { write: (line: string) => lines.push(JSON.parse(line)) })
  const fetch = createGuardedFetch({ allowedHosts: ['127.0.0.1', '127.0.0.3'] })
  const deps = { sql: database.sql, log, fetch, signingSecret: SECRET }
  const deliverer = await world.run(createWebhookDeliverer(deps, { pollMs: HOUR_MS, ...options }))
  const settled = (count: number) => until(() => lines.filter((line) => 'outcome' in line).length >= count)
  return { deliverer, database, lines, settled }
}

const until = (condition: () => unknown) => vi.waitUntil(condition, { timeout: 20_000, interval: 10 })

async function openDesk(world: World) {
  const { sql } = await world.replica()
  // A deliverer takes whatever is owed: nothing of one test may be left for the next.
  world.defer(() => sql`delete from outbox`)
  return { sql, organizationId: world.unique('org') }
}

test('a call says who is called, why, and for which delivery', async ({ world }) => {
  const { sql, organizationId } = await openDesk(world)
  const receiver = await startReceiver(ok)
  const [id] = await owe(sql, organizationId, receiver.url)
  const { settled, lines } = await startDeliverer(world)
  await settled(1)

  expect(receiver.seen).toHaveLength(1)
  const [{ headers, body, url }] = receiver.seen as [Seen]
  expect(url).toBe('/hook?token=secret')
  expect(JSON.parse(body)).toEqual({ status: 'completed', finalText: 'grüße "✓"' })
  expect(headers).toMatchObject({
    'content-type': 'application/json',
    'user-agent': 'lobu',
    'x-lobu-event': 'run.ended',
    'x-lobu-delivery': id,
    'x-lobu-attempt': '1',
  })
  expect(await owed(sql)).toHaveLength(0)
  expect(lines).toMatchObject([
    { outcome: 'delivered', status: 200, deliveryId: id, organizationId, attempt: 1, host: receiver.host },
  ])
  expect(JSON.stringify(lines)).not.toMatch(/secret|grüße/)
})

test('the signature proves body and time to who has the key of the organization', async ({ world }) => {
  const { sql, organizationId } = await openDesk(world)
  const receiver = await startReceiver(ok)
  await owe(sql, organizationId, receiver.url)
  const { settled } = await startDeliverer(world)
  await settled(1)

  const [{ headers, body }] = receiver.seen as [Seen]
  const [, t, v1] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(String(headers['x-lobu-signature'])) ?? []
  const key = webhookSigningKey(SECRET, organizationId)
  expect(v1).toBe(createHmac('sha256', key).update(`${t}.${body}`).digest('hex'))
  expect(Math.abs(Date.now() / 1000 - Number(t))).toBeLessThan(300)
  expect(webhookSigningKey(SECRET, 'another')).not.toBe(key)
  expect(webhookSigningKey(`${SECRET}.`, organizationId)).not.toBe(key)
})

test('three replicas make each call once', async ({ world }) => {
  const { sql, organizationId } = await openDesk(world)
  const receivers = [await startReceiver(ok), await startReceiver(ok, '127.0.0.3')]
  const ids = []
  for (const { url } of receivers) ids.push(...(await owe(sql, organizationId, url, 50)))
  await Promise.all([startDeliverer(world), startDeliverer(world), startDeliverer(world)])

  await until(async () => (await sql`select 1 from outbox limit 1`).length === 0)
  const delivered = receivers.flatMap(({ seen }) => seen.map(({ headers }) => headers['x-lobu-delivery']))
  expect(delivered.sort()).toEqual(ids.sort())
})

test('a call that is answered 500 is made again later, as the same delivery', async ({ world }) => {
  const { sql, organizationId } = await openDesk(world)
  const receiver = await startReceiver((res, nth) => status(nth === 1 ? 500 : 200)(res))
  const [id] = await owe(sql, organizationId, receiver.url)
  const { deliverer, settled, lines } = await startDeliverer(world)
  await settled(1)
  const [waiting] = await owed(sql)
  expect(waiting).toMatchObject({ id, attempt: 1 })
  expect(waiting!.waitMs).toBeLessThanOrEqual(2_000)

  await passTime(sql)
  deliverer.ring()
  await settled(2)

  expect(lines).toMatchObject([
    { outcome: 'postponed', status: 500, attempt: 1 },
    { outcome: 'delivered', status: 200, attempt: 2 },
  ])
  expect(receiver.seen.map(({ headers }) => headers['x-lobu-delivery'])).toEqual([id, id])
  expect(receiver.seen.map(({ headers }) => headers['x-lobu-attempt'])).toEqual(['1', '2'])
  expect(receiver.seen[0]!.body).toBe(receiver.seen[1]!.body)
})

test.for([
  ['120', 110_000, 120_000],
  ['86400', 3_590_000, 3_600_000],
] as const)('retry-after: %s is obeyed, up to an hour', async ([retryAfter, least, most], { world }) => {
  const { sql, organizationId } = await openDesk(world)
  const receiver = await startReceiver(status(429, { 'retry-after': retryAfter }))
  await owe(sql, organizationId, receiver.url)
  const { settled } = await startDeliverer(world)
  await settled(1)
  const [{ waitMs }] = (await owed(sql)) as unknown as [{ waitMs: number }]
  expect(waitMs).toBeGreaterThan(least)
  expect(waitMs).toBeLessThanOrEqual(most)
})

test('a call that fails the last time it may becomes a dead letter', async ({ world }) => {
  const { sql, organizationId } = await openDesk(world)
  const receiver = await startReceiver(status(503))
  const [id] = await owe(sql, organizationId, receiver.url)
  const { deliverer, settled, lines } = await startDeliverer(world, { attemptsMax: 3 })
  for (const attempt of [1, 2, 3]) {
    await settled(attempt)
    await passTime(sql)
    deliverer.ring()
  }

  expect(lines.map((line) => line.outcome)).toEqual(['postponed', 'postponed', 'given_up'])
  expect(receiver.seen).toHaveLength(3)
  expect(await sql`select 1 from outbox`).toHaveLength(0)
  expect(await deadLetters(sql, organizationId)).toMatchObject([
    { queue: 'webhook', attempts: 3, error: expect.stringContaining('503'), payload: { id, target: receiver.url } },
  ])
})

test('410 ends a call at once', async ({ world }) => {
  const { sql, organizationId } = await openDesk(world)
  const receiver = await startReceiver(status(410))
  await owe(sql, organizationId, receiver.url)
  const { settled } = await startDeliverer(world)
  await settled(1)
  expect(await sql`select 1 from outbox`).toHaveLength(0)
  expect(await deadLetters(sql, organizationId)).toMatchObject([{ attempts: 1, error: expect.stringContaining('410') }])
})

test('a call into a network that is not public is not made', async ({ world }) => {
  const { sql, organizationId } = await openDesk(world)
  const receiver = await startReceiver(ok, '127.0.0.2')
  await owe(sql, organizationId, receiver.url)
  const { settled, lines } = await startDeliverer(world)
  await settled(1)
  expect(lines).toMatchObject([{ outcome: 'postponed', fault: expect.stringContaining('private_address') }])
  expect(receiver.seen).toHaveLength(0)
})

// At least once: the receiver has the call, the sender dies before it can write that down.
test('a crash between the call and its record repeats the same delivery when the lease is over', async ({ world }) => {
  const { sql, organizationId } = await openDesk(world)
  let crash = async () => {}
  const receiver = await startReceiver(async (res, nth) => {
    if (nth === 1) await crash()
    res.end()
  })
  const [id] = await owe(sql, organizationId, receiver.url)
  const doomed = await startDeliverer(world)
  crash = () => doomed.database.close()
  doomed.deliverer.ring()
  await doomed.settled(1)
  expect(doomed.lines).toContainEqual(expect.objectContaining({ outcome: 'unrecorded' }))

  const heir = await startDeliverer(world)
  heir.deliverer.ring()
  expect(await owed(sql)).toMatchObject([{ id, attempt: 1 }])
  await passTime(sql)
  heir.deliverer.ring()
  await heir.settled(1)

  expect(heir.lines).toMatchObject([{ outcome: 'delivered', attempt: 2 }])
  expect(receiver.seen.map(({ headers }) => headers['x-lobu-delivery'])).toEqual([id, id])
  expect(await sql`select 1 from outbox`).toHaveLength(0)
})

test('who was silent past its lease changes nothing after another has taken over', async ({ world }) => {
  const { sql, organizationId } = await openDesk(world)
  let answerFirst = () => {}
  const receiver = await startReceiver((res, nth) => {
    if (nth === 1) answerFirst = () => status(410)(res)
    else status(500)(res)
  })
  const [id] = await owe(sql, organizationId, receiver.url)
  const late = await startDeliverer(world)
  await until(() => receiver.seen.length === 1)
  await passTime(sql)
  const current = await startDeliverer(world)
  await current.settled(1)

  answerFirst()
  await late.settled(1)

  expect(current.lines).toMatchObject([{ outcome: 'postponed', attempt: 2 }])
  expect(late.lines).toMatchObject([{ outcome: 'superseded', attempt: 1 }])
  expect(await owed(sql)).toMatchObject([{ id, attempt: 2 }])
  expect(await deadLetters(sql, organizationId)).toHaveLength(0)
})

test('a call whose last try never came to an end is not made again', async ({ world }) => {
  const { sql, organizationId } = await openDesk(world)
  const receiver = await startReceiver(ok)
  await owe(sql, organizationId, receiver.url)
  await sql`update outbox set ready = false, attempt = 3, due_at = now() where organization_id = ${organizationId}`
  const { settled, lines } = await startDeliverer(world, { attemptsMax: 3 })
  await settled(1)
  expect(lines).toMatchObject([{ outcome: 'given_up' }])
  expect(receiver.seen).toHaveLength(0)
  expect(await deadLetters(sql, organizationId)).toMatchObject([{ attempts: 3 }])
})

test('a thousand calls to a host that hangs delay neither other organizations nor other hosts', async ({ world }) => {
  const { sql, organizationId } = await openDesk(world)
  const hanging = await startReceiver(() => {})
  const working = await startReceiver(ok, '127.0.0.3')
  await owe(sql, `${organizationId}-a`, hanging.url, 1_000)
  const { deliverer } = await startDeliverer(world)
  await until(() => hanging.seen.length === 2)

  const mine = await owe(sql, `${organizationId}-a`, working.url)
  const others = await owe(sql, `${organizationId}-b`, working.url)
  const shared = await owe(sql, `${organizationId}-c`, hanging.url)
  deliverer.ring()
  await until(() => working.seen.length === 2 && hanging.seen.length === 3)

  // No call to the hanging host has ended so far: nobody waited for one.
  expect(working.seen.map(({ headers }) => headers['x-lobu-delivery']).sort()).toEqual([...mine, ...others].sort())
  expect(hanging.seen[2]!.headers['x-lobu-delivery']).toBe(shared[0])
  expect(await sql`select 1 from outbox where attempt > 0 and target = ${hanging.url}`).toHaveLength(3)
  const stopped = deliverer.stop()
  hanging.close()
  await stopped
})

test('organizations take turns at a host that all of them call', async ({ world }) => {
  const { sql, organizationId } = await openDesk(world)
  const receiver = await startReceiver(ok)
  const organizations = [1, 2, 3, 4, 5, 6].map((n) => `${organizationId}-${n}`)
  for (const each of organizations) await owe(sql, each, `${receiver.url}&of=${each}`, 5)
  await startDeliverer(world, { concurrency: 4 })
  await until(() => receiver.seen.length === 30)

  // Two calls at once may reach one host: the sixth claim is among the first seven arrivals.
  const first = receiver.seen.slice(0, 7).map(({ url }) => url.split('of=')[1])
  expect(new Set(first)).toEqual(new Set(organizations))
})

test('stop waits for the call under way and its record', async ({ world }) => {
  const { sql, organizationId } = await openDesk(world)
  let answer = () => {}
  const receiver = await startReceiver((res) => {
    answer = () => res.end()
  })
  await owe(sql, organizationId, receiver.url)
  const { deliverer, lines } = await startDeliverer(world)
  await until(() => receiver.seen.length === 1)
  let isStopped = false
  const stopped = deliverer.stop().then(() => {
    isStopped = true
  })
  await sql`select 1`
  expect(isStopped).toBe(false)
  answer()
  await stopped
  await deliverer.stop()
  expect(lines).toMatchObject([{ outcome: 'delivered' }])
  expect(await sql`select 1 from outbox`).toHaveLength(0)
})

const deadLetters = (sql: Sql, organizationId: string) =>
  sql`select queue, payload, error, attempts from dead_letters where organization_id = ${organizationId}`
