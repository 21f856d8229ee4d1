/** Event streams as others serve them, for `sse.ts`: `bare` node:http as its documentation has it, and `better-sse`. */
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createChannel, createSession } from 'better-sse'
import { sharedNow } from './support.ts'

const TEXT = `${'x'.repeat(160)}~`
const HEADERS = { 'content-type': 'text/event-stream', 'cache-control': 'no-cache', 'x-accel-buffering': 'no' }

const kinds = {
  bare() {
    const streams = new Set<ServerResponse>()
    return {
      attach(res: ServerResponse) {
        res.writeHead(200, HEADERS)
        res.flushHeaders()
        streams.add(res)
        res.on('close', () => streams.delete(res))
      },
      broadcast() {
        const frame = Buffer.from(`id: 123456\nevent: tool-use\ndata: ${JSON.stringify({ text: TEXT })}\n\n`)
        for (const res of streams) res.write(frame)
      },
    }
  },
  'better-sse'() {
    const channel = createChannel()
    return {
      attach(res: ServerResponse) {
        void createSession(res.req, res, { keepAlive: null }).then((session) => channel.register(session))
      },
      broadcast() {
        channel.broadcast({ text: TEXT }, 'tool-use')
      },
    }
  },
}

const { attach, broadcast } = kinds[process.argv[2] as keyof typeof kinds]()
const server = createServer({ requestTimeout: 0, keepAliveTimeout: 0 }, (_req, res) => attach(res))
server.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 }, () => {
  process.send!({ port: (server.address() as AddressInfo).port })
})
process.on('message', (order) => {
  if (order !== 'broadcast') return
  const at = sharedNow()
  broadcast()
  process.send!({ at })
})
process.on('disconnect', () => process.exit(0))
