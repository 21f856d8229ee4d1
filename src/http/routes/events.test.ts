import { connect } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect, vi } from 'vitest'
import { PATIENT, sendRaw } from '../../../tests/support/http.ts'
import { connectSse } from '../../../tests/support/sse-client.ts'
import { createStreamWorld } from '../../../tests/support/streams.ts'
import { test } from '../../../tests/support/world.ts'

/** Sends one request and keeps what comes back; `ended` once the server has closed the connection. */
function ask(url: string, requestLine: (path: string) => string) {
  const { port, pathname } = new URL(url)
  const seen = { text: '', ended: false }
  const socket = connect(Number(port), '127.0.0.1', () => socket.write(`${requestLine(pathname)}\r\nhost: x\r\n\r\n`))
  socket.on('data', (chunk) => {
    seen.text += chunk
  })
  socket.on('end', () => {
    seen.ended = true
  })
  return seen
}

test('HEAD is answered with the head of a stream and opens none', async ({ world }) => {
  const streams = await createStreamWorld(world)
  const replica = await streams.startReplica()
  const { port, pathname } = new URL(replica.url(await streams.conversation()))
  const received = await sendRaw(Number(port), `HEAD ${pathname} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`)
  const [head, body] = received.split('\r\n\r\n')
  expect(head).toMatch(/^HTTP\/1\.1 200 /)
  expect(head).toMatch(/content-type: text\/event-stream/i)
  expect(body).toBe('')
  expect(replica.sse.count()).toBe(0)
})

test('HEAD of an unknown conversation is 404', async ({ world }) => {
  const streams = await createStreamWorld(world)
  const replica = await streams.startReplica()
  const url = replica.url({ ...(await streams.conversation()), conversationId: 'conv_unknown' })
  expect((await fetch(url, { method: 'HEAD' })).status).toBe(404)
})

test('a client or proxy that speaks HTTP/1.0 gets bare frames, and the end of the connection as their end', async ({
  world,
}) => {
  const streams = await createStreamWorld(world)
  const key = await streams.conversation()
  const replica = await streams.startReplica()
  const seen = ask(replica.url(key), (path) => `GET ${path} HTTP/1.0`)
  await vi.waitUntil(() => seen.text.includes('event: connected'), PATIENT)
  replica.signals.published([await streams.publish(key, [['output', { content: 'é 🌍' }]])])
  await vi.waitUntil(() => seen.text.includes('🌍'), PATIENT)
  await replica.sse.stop()
  await vi.waitUntil(() => seen.ended, PATIENT)

  const [head, ...body] = seen.text.split('\r\n\r\n')
  expect(head).toMatch(/^connection: close$/im)
  expect(head).not.toMatch(/transfer-encoding/i)
  expect(body.join('\r\n\r\n')).toMatch(
    /^event: connected\ndata: [^\n]+\n\nid: 1\nevent: output\ndata: \{"content":"é 🌍"\}\n\nretry: \d+\n\n$/,
  )
})

test('a stream that is open keeps nothing of its request, and works on', async ({ world }) => {
  const streams = await createStreamWorld(world)
  const key = await streams.conversation()
  const replica = await streams.startReplica()
  const client = await connectSse(replica.url(key))
  await client.waitFor((event) => event.name === 'connected')
  const collect = gc()
  await vi.waitFor(() => {
    collect()
    expect(replica.leftovers.flatMap((left) => left.deref()?.constructor.name ?? [])).toEqual([])
  }, PATIENT)
  expect(replica.leftovers).toHaveLength(4)

  replica.signals.published([await streams.publish(key, [['output', { content: 'still here' }]])])
  await client.waitForId(1)
  client.cut()
  await vi.waitFor(() => expect(replica.sse.count()).toBe(0), PATIENT)
})

function gc(): () => void {
  setFlagsFromString('--expose-gc')
  return runInNewContext('gc')
}
