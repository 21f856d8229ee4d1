import { once } from 'node:events'
import { connect, createServer, type Http2Server, type ServerHttp2Stream } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { afterEach, describe, expect, it } from 'vitest'
import { until } from '../test-rig.ts'
import { createGatewayFetch } from './gateway-fetch.ts'

const servers: Http2Server[] = []
afterEach(() => Promise.all(servers.splice(0).map((server) => server.close())))

/** A gateway that lets `answer` answer every request, and the `fetch` of a worker to it. */
async function open(answer: (stream: ServerHttp2Stream) => void) {
  const server = createServer()
  servers.push(server)
  server.on('stream', (stream) => {
    stream.on('error', () => {})
    stream.respond({ ':status': 200 })
    answer(stream)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const session = connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  session.on('error', () => {})
  return { session, fetch: createGatewayFetch(session, () => ({})) }
}

function collectGarbage() {
  setFlagsFromString('--expose-gc')
  runInNewContext('gc')()
}

describe('a response of the gateway', () => {
  it('can be given up while more of it arrives', async () => {
    const piece = Buffer.alloc(16 * 1024)
    const { fetch, session } = await open((stream) => {
      for (let at = 0; at < 100; at++) stream.write(piece)
    })
    const reader = (await fetch('http://gateway/model/demo/x')).body!.getReader()
    await reader.read()
    await reader.cancel()
    await reader.closed
    // The connection is as good as before.
    expect((await fetch('http://gateway/model/demo/x')).status).toBe(200)
    session.destroy()
  })

  it('that is aborted long after its request closes the call upstream', async () => {
    const upstream = Promise.withResolvers<ServerHttp2Stream>()
    const { fetch, session } = await open((stream) => {
      upstream.resolve(stream)
      stream.write('first')
    })
    const abort = new AbortController()
    const reader = (await fetch('http://gateway/model/demo/x', { signal: abort.signal })).body!.getReader()
    await reader.read()
    // Whatever the request was made of is gone by then.
    for (let round = 0; round < 3; round++) {
      collectGarbage()
      await new Promise(setImmediate)
    }
    const stream = await upstream.promise
    abort.abort()
    await until(() => stream.closed)
    await expect(reader.read()).rejects.toThrow(/aborted/)
    session.destroy()
  })
})
