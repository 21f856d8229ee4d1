import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { gunzipSync } from 'node:zlib'
import { onTestFinished } from 'vitest'

export interface FakeSentry {
  /** For `SENTRY_DSN`. */
  readonly dsn: string
  // biome-ignore lint/suspicious/noExplicitAny: a test looks into whatever came
  events(): any[]
  /** All that was sent, as text. */
  raw(): string
}

/** Takes error reports on the loopback interface until the test is over. https://develop.sentry.dev/sdk/data-model/envelopes/ */
export async function startFakeSentry(): Promise<FakeSentry> {
  const envelopes: string[] = []
  const server = createServer(async (req, res) => {
    const body = await buffer(req)
    envelopes.push((req.headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body).toString('utf8'))
    res.writeHead(200, { 'content-type': 'application/json' }).end('{}')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return {
    dsn: `http://publickey@127.0.0.1:${(server.address() as AddressInfo).port}/1`,
    raw: () => envelopes.join('\n'),
    events: () =>
      envelopes.flatMap((envelope) => {
        const [, head = '{}', event = '{}'] = envelope.split('\n')
        return JSON.parse(head).type === 'event' ? [JSON.parse(event)] : []
      }),
  }
}
