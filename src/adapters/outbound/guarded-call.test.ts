import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { expect, onTestFinished, test } from 'vitest'
import { createGuardedCall } from './guarded-call.ts'

async function listen(answer: (req: http.IncomingMessage, res: http.ServerResponse) => unknown) {
  const server = http.createServer((req, res) => void answer(req, res)).listen(0, '127.0.0.1')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  let connections = 0
  server.on('connection', () => connections++)
  await once(server, 'listening')
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, connections: () => connections }
}

test('hands over method, headers and body, and the answer whatever its status', async () => {
  const { url } = await listen(async (req, res) => {
    res.writeHead(418).end(`${req.method} ${req.url} ${req.headers['x-a']} ${await text(req)}`)
  })
  const call = createGuardedCall({ allowedHosts: ['127.0.0.1'] })
  const answer = await call(`${url}/a?b=c`, { method: 'POST', headers: { 'x-a': 'b' }, body: 'hello' })
  expect(answer).toEqual({ status: 418, text: 'POST /a?b=c b hello' })
})

test('what strangers chose reaches no address that is not public; the operator’s own choice does', async () => {
  const server = await listen((_req, res) => res.end('inside'))
  await expect(createGuardedCall({ allowedHosts: [] })(server.url)).rejects.toThrow(/not a public one/)
  const resolve = async () => ['127.0.0.1']
  const named = server.url.replace('127.0.0.1', 'idp.example')
  await expect(createGuardedCall({ allowedHosts: [], resolve })(named)).rejects.toThrow(/not public/)
  expect(server.connections()).toBe(0)
  expect(await createGuardedCall({ allowedHosts: [], anyAddress: true })(server.url)).toMatchObject({ text: 'inside' })
  expect(await createGuardedCall({ allowedHosts: [], anyAddress: true, resolve })(named)).toMatchObject({ status: 200 })
})

test('a redirect is an answer and not followed', async () => {
  const inside = await listen((_req, res) => res.end('inside'))
  const { url } = await listen((_req, res) => res.writeHead(302, { location: inside.url }).end())
  const call = createGuardedCall({ allowedHosts: ['127.0.0.1'] })
  expect(await call(url)).toMatchObject({ status: 302 })
  expect(inside.connections()).toBe(0)
})

test('an answer that is too large is none', async () => {
  const { url } = await listen((_req, res) => res.end('x'.repeat(300_000)))
  await expect(createGuardedCall({ allowedHosts: ['127.0.0.1'] })(url)).rejects.toThrow()
})
