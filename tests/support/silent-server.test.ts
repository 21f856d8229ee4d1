import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { sendRequest } from './cluster.ts'
import { sendHalf } from './half-sent.ts'
import { connectSse } from './sse-client.ts'

/** Takes connections; what it does with a request is the test's. */
async function serve(handle: Parameters<typeof createServer>[1]): Promise<string> {
  const server = createServer(handle)
  server.on('checkContinue', handle!)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const HALF = { path: '/messages', body: { content: 'never sent whole' }, token: 'none' }

test('a request that nothing answers is given up, and says what it waited for', async () => {
  const url = await serve(() => {})
  await expect(sendRequest('GET', `${url}/runs`, { withinMs: 50 })).rejects.toThrow(
    `waited 0.05 s in vain for the answer to GET ${url}/runs`,
  )
})

test('so is one whose answer never comes to its end', async () => {
  const url = await serve((_, res) => void res.write('half'))
  await expect(sendRequest('GET', url, { withinMs: 50 })).rejects.toThrow('in vain for the answer')
})

test('so is a stream without a head; behind it, it may be silent', async () => {
  const mute = await serve(() => {})
  await expect(connectSse(mute, { withinMs: 50 })).rejects.toThrow(`in vain for the head of ${mute}`)
  let speak = () => {}
  const url = await serve((_, res) => {
    res.writeHead(200).flushHeaders()
    speak = () => void res.write('event: ping\ndata: {}\n\n')
  })
  const client = await connectSse(url, { withinMs: 50 })
  onTestFinished(client.cut)
  await new Promise((resolve) => setTimeout(resolve, 100))
  speak()
  expect(await client.waitFor(({ name }) => name === 'ping')).toMatchObject({ data: {} })
})

test('half a request that is answered before its body was asked for says with what', async () => {
  const url = await serve((_, res) => void res.writeHead(401).end())
  await expect(sendHalf(url, HALF)).rejects.toThrow('/messages had "401" before its body was asked for')
})

test('half a request whose connection breaks says so', async () => {
  const url = await serve((req) => void req.socket.destroy())
  await expect(sendHalf(url, HALF)).rejects.toThrow('/messages had "socket hang up"')
})
