import { Agent, get, type IncomingMessage } from 'node:http'
import { connect, type Socket } from 'node:net'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { pino } from 'pino'
import { expect, onTestFinished, test, vi } from 'vitest'
import { PATIENT, serve } from '../../tests/support/http.ts'
import { createHttpApp, type Router } from './router.ts'
import { createHttpServer } from './server.ts'

/** A route that answers when it is let. */
function slowRoute() {
  let release = () => {}
  const released = new Promise<void>((resolve) => {
    release = resolve
  })
  const reached = vi.fn()
  const mount = (app: Router) => {
    app.get('/quick', (c) => c.text('done'))
    app.get('/slow', async (c) => {
      reached()
      await released
      return c.text('done')
    })
    app.get('/stream', (c) => {
      c.env.outgoing.writeHead(200, { 'content-type': 'text/event-stream' }).write(': hello\n\n')
      return RESPONSE_ALREADY_SENT
    })
  }
  return { mount, release: () => release(), reached: () => vi.waitUntil(() => reached.mock.calls.length > 0, PATIENT) }
}

function request(url: string, agent: Agent): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    get(url, { agent }, (response) => resolve(response.resume())).on('error', reject)
  })
}

function keepAliveAgent() {
  const agent = new Agent({ keepAlive: true })
  onTestFinished(() => agent.destroy())
  return agent
}

function isRefused(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => resolve(false))
    socket.on('error', () => resolve(true)).on('close', () => socket.destroy())
  })
}

test('an active request is finished and its connection closed; new connections are refused', async () => {
  const slow = slowRoute()
  const { url, port, server } = await serve(slow.mount)
  const pending = request(`${url}/slow`, keepAliveAgent())
  await slow.reached()
  server.stopAccepting()
  const stopped = server.stop({ graceMs: 20_000 })
  expect(await isRefused(port)).toBe(true)
  slow.release()
  const response = await pending
  expect(response.statusCode).toBe(200)
  expect(response.headers.connection).toBe('close')
  await stopped
})

// 65: who is on its way out and still serves moves clients elsewhere without cutting anybody
test('a server that sends its clients elsewhere still takes connections, and each answer ends its own', async () => {
  const { url, server } = await serve(slowRoute().mount)
  const agent = keepAliveAgent()
  const freed = new Promise<Socket>((resolve) => agent.once('free', resolve))
  await request(`${url}/quick`, agent)
  const idle = await freed
  server.sendElsewhere()
  expect(idle.destroyed).toBe(false)
  for (const client of [agent, keepAliveAgent()]) {
    const response = await request(`${url}/quick`, client)
    expect([response.statusCode, response.headers.connection]).toEqual([200, 'close'])
  }
})

test('a connection that has never asked for anything does not hold up the end', async () => {
  const { port, server } = await serve(slowRoute().mount)
  const silent = connect(port, '127.0.0.1')
  const gone = new Promise((resolve) => silent.on('error', () => {}).once('close', resolve))
  await new Promise((resolve) => silent.once('connect', resolve))
  await server.stop({ graceMs: 600_000 })
  await gone
})

test('a request that came on an open connection while the last others were answered is answered too', async () => {
  const slow = slowRoute()
  const { url, port, server } = await serve(slow.mount)
  const socket = connect(port, '127.0.0.1')
  const pending = request(`${url}/slow`, keepAliveAgent())
  await slow.reached()
  const stopped = server.stop({ graceMs: 600_000 })
  let answer = ''
  const ended = new Promise((resolve) => socket.on('data', (part) => (answer += part)).once('close', resolve))
  slow.release()
  await pending
  socket.write('GET /quick HTTP/1.1\r\nhost: x\r\n\r\n')
  await Promise.all([stopped, ended])
  expect(answer).toMatch(/^HTTP\/1.1 200 .*done$/s)
})

test('who loses patience cuts what is under way', async () => {
  const slow = slowRoute()
  const { url, server } = await serve(slow.mount)
  const pending = request(`${url}/slow`, keepAliveAgent()).catch((error: NodeJS.ErrnoException) => error.code)
  await slow.reached()
  const impatience = new AbortController()
  const stopped = server.stop({ graceMs: 600_000, signal: impatience.signal })
  impatience.abort()
  await stopped
  expect(await pending).toBe('ECONNRESET')
})

test('idle keep-alive connections are closed at once', async () => {
  const { url, server } = await serve(slowRoute().mount)
  const agent = keepAliveAgent()
  const freed = new Promise<Socket>((resolve) => agent.once('free', resolve))
  expect((await request(`${url}/quick`, agent)).headers.connection).toBe('keep-alive')
  const idle = await freed
  const gone = new Promise((resolve) => idle.once('close', resolve))
  server.stopAccepting()
  await gone
})

test('what is still active after the grace is cut off', async () => {
  const { url, server } = await serve(slowRoute().mount)
  const response = await request(`${url}/stream`, keepAliveAgent())
  const gone = new Promise((resolve) => response.once('close', resolve))
  response.on('error', () => {})
  await server.stop({ graceMs: 10 })
  await gone
})

test('stopping twice, or before the start, is harmless', async () => {
  const { server } = await serve(slowRoute().mount)
  await Promise.all([server.stop(), server.stop({ graceMs: 0 })])
  server.stopAccepting()
  const log = pino({ level: 'silent' })
  const unused = createHttpServer({ app: createHttpApp({ log }), log }, { port: 0, host: '127.0.0.1' })
  unused.stopAccepting()
  await unused.stop()
})

test('a port in use is a sentence that names the port and the variable', async () => {
  const { port } = await serve(() => {})
  const log = pino({ level: 'silent' })
  const second = createHttpServer({ app: createHttpApp({ log }), log }, { port, host: '127.0.0.1' })
  await expect(second.start()).rejects.toThrow(new RegExp(`Port ${port} .*already in use.* PORT `))
})

test('the agent API and the reference answer under /lobu as well, nothing else does', async () => {
  const { url } = await serve((app) => {
    app.get('/api/v1/agents/:id', (c) => c.text(c.req.param('id')))
    app.get('/api/docs', (c) => c.text('docs'))
    app.get('/health', (c) => c.text('ok'))
    app.get('/api/:org/agents', (c) => c.text('org'))
  })
  const text = async (path: string) => (await fetch(url + path, { redirect: 'error' })).text()
  expect(await text('/lobu/api/v1/agents/a%20b?x=1')).toBe('a b')
  expect(await text('/lobu/api/docs')).toBe('docs')
  expect((await fetch(`${url}/lobu/health`)).status).toBe(404)
  expect((await fetch(`${url}/lobu/api/acme/agents`)).status).toBe(404)
  expect((await fetch(`${url}/lobu/api/v10`)).status).toBe(404)
})
